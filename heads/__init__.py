"""Medusa heads: the module, its config, and the checkpoint formats that it reads and writes."""

from .config import MedusaHeadsConfig
from .modeling import MedusaHeads

__all__ = ["MedusaHeads", "MedusaHeadsConfig"]
