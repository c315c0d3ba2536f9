"""Extraction of the paragraph tree from a response's text.

`extract` applies the rules of `rules.py`, each in a module of its own; `markup.py` says what is never split.
"""

from .extraction import extract, flatten
from .rules import PAPER, RULES, Rule, Rules

__all__ = ["PAPER", "RULES", "Rule", "Rules", "extract", "flatten"]
