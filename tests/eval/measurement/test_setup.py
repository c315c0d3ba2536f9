"""What the measurements share: the model, as they load it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from medusa_apar import MedusaAparModel
from medusa_apar.eval.measurement.setup import load_model

from ...runner.test_backbones import backbone


@pytest.mark.parametrize("in_place", [True, False])
def test_transformers_keeps_weights_to_decode_with(
    in_place: bool, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    MedusaAparModel(backbone("llama", "sdpa", dtype=torch.float32)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = load_model(str(tmp_path), "float32", weights="int8", in_place=in_place)
    assert model.backbone.lm_head.weight.is_meta == in_place
    with model.decoding() as (runner, _):
        assert runner.weights == "int8"
