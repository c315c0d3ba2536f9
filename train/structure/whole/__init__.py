"""Texts that are never split, because they are not prose or their parts depend on each other.

They teach the model not to fork.
"""

from .configuration import is_configuration
from .dialogue import is_dialogue
from .markup import has_markup
from .sequences import is_sequence
from .verse import is_verse

__all__ = ["stays_whole"]

_KINDS = (has_markup, is_configuration, is_dialogue, is_verse, is_sequence)


def stays_whole(text: str) -> bool:
    """Whether a normalized text is of a kind that is never split."""
    return any(is_kind(text) for is_kind in _KINDS)
