"""Medusa heads and APAR paragraph threads under one attention mask per step, for transformers."""

from pathlib import Path

from .heads import MedusaHeads, MedusaHeadsConfig, SequentialHeads, SequentialHeadsConfig
from .model import MedusaAparModel
from .modes import Mode
from .output import DecodingStats, MedusaAparOutput
from .tree.control_tokens import ControlTokenRules, ControlTokens
from .tree.paragraph_tree import ParagraphNode, ParagraphTree, Thread

DEFAULT_MODEL = Path(__file__).parent / "default"
"""Folder of the default model: adapter and heads of SmolLM2-135M-Instruct, whose own weights are fetched once."""

__all__ = [
    "DEFAULT_MODEL",
    "ControlTokenRules",
    "ControlTokens",
    "DecodingStats",
    "MedusaAparModel",
    "MedusaAparOutput",
    "MedusaHeads",
    "MedusaHeadsConfig",
    "Mode",
    "ParagraphNode",
    "ParagraphTree",
    "SequentialHeads",
    "SequentialHeadsConfig",
    "Thread",
]
