"""Heads that draft tokens ahead: the modules, their configs, and the checkpoint formats that they are kept in."""

from .config import Eagle3HeadsConfig, HeadsConfig, MedusaHeadsConfig, SequentialHeadsConfig
from .draft_heads import DraftHeads
from .eagle3 import Eagle3Heads
from .medusa import MedusaHeads
from .sequential import SequentialHeads

__all__ = [
    "DraftHeads",
    "Eagle3Heads",
    "Eagle3HeadsConfig",
    "HeadsConfig",
    "MedusaHeads",
    "MedusaHeadsConfig",
    "SequentialHeads",
    "SequentialHeadsConfig",
]
