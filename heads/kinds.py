"""The kinds of heads."""

from .draft_heads import DraftHeads
from .eagle3 import Eagle3Heads
from .medusa import MedusaHeads
from .sequential import SequentialHeads

KINDS: dict[str, type[DraftHeads]] = {
    kind.config_class.model_type: kind for kind in (MedusaHeads, SequentialHeads, Eagle3Heads)
}
"""By the `model_type` of their configs."""
