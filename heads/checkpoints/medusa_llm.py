"""Heads in medusa-llm's format.

Source of the layout: medusa-llm 0.1 (github.com/FasterDecoding/Medusa), `medusa/model/medusa_model.py` and
`medusa/train/train.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..config import MedusaHeadsConfig
from ..draft_heads import DraftHeads
from ..medusa import MedusaHead, MedusaHeads
from .checkpoint_files import RETRIEVE, natural, read_pt, read_safetensors
from .formats import CONFIG, MEDUSA_LLM_PT, MEDUSA_LLM_SAFETENSORS, CheckpointFormat, writing


def save_medusa_llm(
    heads: DraftHeads,
    folder: str | Path,
    base_model_name_or_path: str,
    backbone: PreTrainedModel | None = None,
) -> None:
    """Write heads as medusa-llm's `config.json` and `medusa_lm_head.pt`.

    Both files are written under temporary names first, so a failure leaves the folder's files as they were.
    Calibration and accuracy have no place in this format.

    Args:
        heads: the heads to write.
        folder: where to write; created if need be.
        base_model_name_or_path: the backbone that medusa-llm is to load beside them.
        backbone: the causal LM of the heads; needed where they share its projection, which this format repeats in
            every head.

    Raises:
        ValueError: medusa-llm cannot compute these heads, or the folder holds the `config.json` of something else.
        OSError: the folder cannot be written.
    """
    if isinstance(heads, MedusaHeads):
        _check_blocks_are_one(heads)
    write_medusa_llm(heads, folder, base_model_name_or_path, backbone)


def write_medusa_llm(
    heads: DraftHeads,
    folder: str | Path,
    base_model_name_or_path: str,
    backbone: PreTrainedModel | None = None,
) -> None:
    """As `save_medusa_llm`, but each block of a head may have weights of its own.

    The layout has names for them. medusa-llm itself reads the last one alone and applies it several times.
    """
    if not isinstance(heads, MedusaHeads):
        raise ValueError("medusa-llm's format has no place for heads of another kind; export Medusa heads")
    if heads.draft_token_ids is not None:
        raise ValueError(
            f"draft_vocab_size={heads.config.draft_vocab_size}: medusa-llm's heads draft among all tokens; "
            "export to vllm, or train heads without a draft vocabulary"
        )
    state = _medusa_llm_state(heads, backbone)
    config = {
        "base_model_name_or_path": base_model_name_or_path,
        "medusa_num_heads": heads.config.num_heads,
        "medusa_num_layers": heads.config.num_layers,
    }
    with writing(Path(folder), CheckpointFormat.MEDUSA_LLM) as partial:
        torch.save(state, partial / MEDUSA_LLM_PT)
        (partial / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (Path(folder) / MEDUSA_LLM_SAFETENSORS).unlink(missing_ok=True)  # of heads that were here before; it is read first


def read_medusa_llm_weights(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    safetensors = folder / MEDUSA_LLM_SAFETENSORS
    if safetensors.is_file():
        return safetensors, read_safetensors(safetensors)
    return folder / MEDUSA_LLM_PT, read_pt(folder / MEDUSA_LLM_PT)


def medusa_llm_config(values: dict[str, Any], state: Mapping[str, Tensor], path: Path) -> MedusaHeadsConfig:
    """Join what medusa-llm's `config.json` says with what only the tensors tell."""
    config_path = path.parent / CONFIG
    held_heads = len({name.split(".")[0] for name in state})
    last = max((int(found[1]) for name in state if (found := re.match(r"0\.(\d+)\.", name))), default=1)
    declared_heads = natural(values, "medusa_num_heads", config_path, default=held_heads)
    num_layers = natural(values, "medusa_num_layers", config_path, default=last, least=0)
    projection = state.get(f"0.{num_layers}.weight")
    if projection is None or projection.dim() != 2:
        raise ValueError(
            f"{path} has no matrix `0.{num_layers}.weight`, the first head's projection for "
            f"medusa_num_layers={num_layers} in {config_path}; correct the config, or {RETRIEVE}"
        )
    vocab_size, hidden_size = projection.shape
    return MedusaHeadsConfig(
        num_heads=max(declared_heads, held_heads),
        num_layers=num_layers,
        hidden_size=hidden_size,
        vocab_size=vocab_size,
    )


def medusa_llm_name(num_layers: int) -> Callable[[str], str]:
    """Return the renaming of our parameters to medusa-llm's: `heads.3.blocks.0.linear.bias` is `3.0.linear.bias`."""

    def rename(name: str) -> str:
        name = name.removeprefix("heads.").replace(".projection.", f".{num_layers}.")
        return re.sub(r"^(\d+)\.blocks\.", r"\1.", name)

    return rename


def _medusa_llm_state(heads: MedusaHeads, backbone: PreTrainedModel | None) -> dict[str, Tensor]:
    config = heads.config
    state = heads.whole_state()
    if backbone is not None:
        heads.check_fits(backbone)
    if config.shared_projection:
        weight = heads.lm_head_of(backbone)
        state |= {f"heads.{head}.projection.weight": weight for head in range(config.num_heads)}
    rename = medusa_llm_name(config.num_layers)
    return {rename(name): tensor for name, tensor in state.items()}


def _check_blocks_are_one(heads: MedusaHeads) -> None:
    """medusa-llm builds `[ResBlock(...)] * num_layers`: one block, applied several times."""
    for head in heads.heads:
        assert isinstance(head, MedusaHead)
        blocks = [block.state_dict() for block in head.blocks]
        if any(not torch.equal(block[name], blocks[0][name]) for block in blocks for name in block):
            raise ValueError(
                f"these heads have {heads.config.num_layers} different residual blocks each, but medusa-llm applies "
                "one block several times and would give other logits; train heads with num_layers=1, or export them "
                "with --format vllm"
            )
