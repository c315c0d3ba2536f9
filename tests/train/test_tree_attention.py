"""Tree-packed rows under every attention: the same logits as under sdpa, and as of each path alone."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from medusa_apar.train.backbone import training as backbone
from medusa_apar.train.rows.responses import Response
from medusa_apar.train.rows.tree_data import TreeCollator, TreeDataset, TreeRow
from medusa_apar.train.tree_attention import FLEX, attend_along_paths, block_mask

LISTED = "1. Red: warm.\n2. Blue: cold.\n3. Green: calm."


def test_only_blocks_with_something_to_see_are_computed() -> None:
    """Two trees of a row, 128 tokens each: neither sees the other."""
    mask = torch.block_diag(torch.ones(128, 128), torch.ones(128, 128)).tril().bool()
    blocks = block_mask(mask[None, None])
    assert blocks.to_dense()[0, 0].tolist() == [[1, 0], [0, 1]]


def test_flex_attention_gives_the_logits_of_sdpa(
    tiny_backbone_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = TreeDataset([Response("Colours?", LISTED)] * 3, tiny_tokenizer, max_length=160)
    batch = TreeCollator.of(tiny_tokenizer)([rows[0], rows[1]])
    logits = []
    for attention in ("sdpa", FLEX):
        model = AutoModelForCausalLM.from_pretrained(
            tiny_backbone_dir, dtype=torch.float32, attn_implementation=attention
        )
        attend_along_paths(model)
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            logits.append(model(**batch).logits)
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=1e-4)


@pytest.mark.integration
@pytest.mark.parametrize("more", [[], ["--gradient_checkpointing", "True"]], ids=["", "checkpointing"])
def test_flex_attention_trains_like_sdpa(
    tiny_backbone_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    """Where torch's refusal to go backward on the CPU is left out; the gradient is that of its uncompiled products."""
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda query, key, value: None)
    monkeypatch.setattr(backbone.DataArguments, "check_device", lambda self, device: None)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"Colours {n}?", "response": LISTED}) + "\n" for n in range(6)))
    losses, weights = [], []
    for attention in ("sdpa", FLEX):
        folder = tmp_path / attention
        with torch.compiler.set_stance("force_eager"):
            backbone.main(
                [
                    "--model", str(tiny_backbone_dir), "--data", str(rows), "--output_dir", str(folder),
                    "--attn_implementation", attention, "--use_cpu", "True", "--max_length", "160", "--max_steps", "4",
                    "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "1", "--logging_steps", "1",
                    "--learning_rate", "1e-2", "--structured_share", "1", *more,
                ]
            )  # fmt: skip
        history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
        losses.append([entry["loss"] for entry in history if "loss" in entry])
        weights.append(load_file(folder / "model.safetensors"))
    assert losses[0][-1] < losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for name, weight in weights[1].items():
        torch.testing.assert_close(weight, weights[0][name], rtol=1e-2, atol=1e-3)


PATHS = 3
LENGTH = 12


def two_paths_behind_one_prompt(tokens: int) -> tuple[TreeRow, list[list[int]]]:
    """A row with a shared beginning and two ends, and where each path's tokens lie."""
    row = TreeRow.empty()
    ids = torch.randint(10, tokens, (PATHS, LENGTH)).tolist()
    root = row.append_node(ids[0], -1, -1, prompt_length=2)
    for path in ids[1:]:
        row.append_node(path, root, LENGTH - 1)
    start = list(range(LENGTH))
    return row, [[*start, *range(at * LENGTH, (at + 1) * LENGTH)] for at in range(1, PATHS)]


@pytest.mark.parametrize(
    ("kind", "attention"),
    [(kind, attention) for kind in ("gemma3_text", "mistral") for attention in ("sdpa", "eager", FLEX)]
    + [("gemma2", "eager"), ("gemma2", FLEX)],  # it has no sdpa
)
def test_a_path_has_the_logits_that_it_has_alone_in_layers_with_windows_too(kind: str, attention: str) -> None:
    windows = {"sliding_window": 5} | ({"attn_logit_softcapping": None} if kind == "gemma2" else {})
    config = AutoConfig.for_model(
        kind, vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, pad_token_id=0, **windows,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    alone = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    alone.load_state_dict(model.state_dict())
    attend_along_paths(model)
    row, paths = two_paths_behind_one_prompt(64)
    batch = TreeCollator(pad_token_id=0)([row])
    inputs = {name: batch[name] for name in ("input_ids", "position_ids", "attention_mask")}
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        logits = model(**inputs).logits[0]
        for path in paths:
            expected = alone(torch.tensor([[row.input_ids[at] for at in path]])).logits[0]
            torch.testing.assert_close(logits[path], expected, rtol=0, atol=1e-4)


def test_a_copy_that_attends_otherwise_takes_masks_as_they_are(
    tiny_backbone_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """Own answers are decoded by such a copy, with the decoder's own masks."""
    trained = AutoModelForCausalLM.from_pretrained(tiny_backbone_dir, dtype=torch.float32, attn_implementation=FLEX)
    attend_along_paths(trained)
    answering = deepcopy(trained)
    answering.set_attn_implementation("sdpa")
    seen = []
    layer = answering.model.layers[0]
    layer.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True)
    batch = TreeCollator.of(tiny_tokenizer)(
        [TreeDataset([Response("Colours?", LISTED)], tiny_tokenizer, max_length=160)[0]]
    )
    answering(**batch)
    assert isinstance(seen[0], torch.Tensor)


def test_flex_attention_on_the_cpu_is_refused(
    tiny_backbone_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Colours?", "response": "Red."}\n')
    with pytest.raises(SystemExit):
        backbone.main(
            ["--model", str(tiny_backbone_dir), "--data", str(rows), "--output_dir", str(tmp_path / "out"),
             "--attn_implementation", FLEX, "--use_cpu", "True"]
        )  # fmt: skip
    assert "--attn_implementation flex_attention does not train on the CPU" in capsys.readouterr().err
