"""Tree-packed rows under flex attention: the same logits as under sdpa."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from medusa_apar.train import backbone
from medusa_apar.train.responses import Response
from medusa_apar.train.tree_attention import FLEX, block_mask, mask_in_blocks
from medusa_apar.train.tree_data import TreeCollator, TreeDataset

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
        mask_in_blocks(model)
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            logits.append(model(**batch).logits)
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=1e-4)


def test_a_copy_that_attends_otherwise_takes_masks_as_they_are(
    tiny_backbone_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """Own answers are decoded by such a copy, with the decoder's own masks."""
    trained = AutoModelForCausalLM.from_pretrained(tiny_backbone_dir, dtype=torch.float32, attn_implementation=FLEX)
    mask_in_blocks(trained)
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
