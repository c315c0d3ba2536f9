"""A backbone that could not be decoded is refused before any of the data is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from medusa_apar.train.backbone import training as backbone
from medusa_apar.train.backbone.held_out_figures import main as eval_backbone
from medusa_apar.train.heads import joint
from medusa_apar.train.heads import training as heads

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
KINDS: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "another architecture": (
        {"model_type": "gpt_neox", **SIZES, "intermediate_size": 32, "max_position_embeddings": 512},
        [],
        "model_type='gpt_neox' is not supported; supported are llama",
    ),
    "ALiBi": ({"model_type": "bloom", **SIZES}, [], "adds ALiBi biases"),
    "a recurrent state": ({"model_type": "mamba", **SIZES, "state_size": 4}, [], "keeps a recurrent state"),
    "bidirectional attention": (
        {"model_type": "gemma3_text", **SIZES, "head_dim": 8, "use_bidirectional_attention": True},
        [],
        "use a causal LM",
    ),
    "attention that leaves soft-capping out": (
        {"model_type": "gemma2", **SIZES, "head_dim": 8, "num_key_value_heads": 2},
        ["--attn_implementation", "sdpa"],
        "attn_implementation='eager'",
    ),
    "rows beyond the length up to which threads do not disturb each other": (
        {
            "model_type": "phi3", **SIZES, "num_key_value_heads": 4, "max_position_embeddings": 512,
            "original_max_position_embeddings": 64, "rope_parameters": {
                "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
                "original_max_position_embeddings": 64,
            },
        },
        [],
        "--max_length 128: the model's context has 64 tokens",
    ),
}  # fmt: skip
COMMANDS: dict[str, Callable[[Sequence[str]], object]] = {
    "train backbone": backbone.main,
    "train heads": heads.main,
    "train joint": joint.main,
    "eval backbone": eval_backbone,
}


CASES = {
    f"{command}: {kind}": (command, *case)
    for command in COMMANDS
    for kind, case in KINDS.items()
    if command.startswith("train") or not case[1]  # which takes no attention
}


@pytest.mark.parametrize(("command", "config", "more", "message"), CASES.values(), ids=list(CASES))
def test_a_backbone_that_could_not_be_decoded_is_refused_first(
    command: str, config: dict[str, Any], more: list[str], message: str, tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    sizes = {"vocab_size": len(tiny_tokenizer), "pad_token_id": 0}
    made = AutoConfig.for_model(config["model_type"], **sizes, **{k: v for k, v in config.items() if k != "model_type"})
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(made).save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    unread = tmp_path / "data.jsonl"
    unread.write_bytes(b"\xff no row of this file is asked for")
    training = ["--data", str(unread), "--output_dir", str(tmp_path / "out"), "--use_cpu", "True", *more]
    data = training if command.startswith("train") else [str(unread)]
    with pytest.raises(SystemExit) as stop:
        COMMANDS[command]([*data, "--model", str(tmp_path / "model"), "--max_length", "128"])
    assert stop.value.code == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"medusa-apar {command}: error: ")
    assert message in line.replace('"', "'")  # transformers quotes otherwise than we do
    assert not (tmp_path / "out").exists()
