"""Heads that draft tokens ahead: the modules, their configs, and the checkpoint formats that they are kept in."""

from .config import HeadsConfig, MedusaHeadsConfig, SequentialHeadsConfig
from .draft_heads import DraftHeads
from .medusa import MedusaHeads
from .sequential import SequentialHeads

__all__ = [
    "DraftHeads",
    "HeadsConfig",
    "MedusaHeads",
    "MedusaHeadsConfig",
    "SequentialHeads",
    "SequentialHeadsConfig",
]
