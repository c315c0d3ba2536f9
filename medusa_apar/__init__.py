"""Medusa heads and APAR paragraph threads under one attention mask per step, for transformers."""

from pathlib import Path

from .heads import MedusaHeads, MedusaHeadsConfig, SequentialHeads, SequentialHeadsConfig
from .model import MedusaAparModel
from .modes import Mode
from .output import DecodingStats, MedusaAparOutput
from .tree.control_tokens import ControlTokenRules, ControlTokens
from .tree.paragraph_tree import ParagraphNode, ParagraphTree, Thread

EMBEDDED = Path(__file__).parent / "embedded"
"""Folder of the bundled checkpoint: a tiny model for trying things out."""

__all__ = [
    "EMBEDDED",
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
