"""Extraction of the paragraph tree from a response's text.

The rules are APAR's (Liu et al. 2024, arXiv 2401.06761, section 3.2 and appendix):

- *Ordered lists*: an item's root is its text up to the first colon or the end of the first
  sentence, its details are the rest.
- *Paragraphs* separated by blank lines: the root is the first sentence, the details are the rest.

A tree needs at least `MIN_ITEMS` items with details. Code, math and markup are never split: a text
that holds them is unstructured, and teaches the model not to fork.

Every character of the text, whitespace included, belongs to exactly one node:
`flatten(extract(text)) == text`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from medusa_apar.paragraph_tree import ParagraphNode

MIN_ITEMS = 3

_NEVER_SPLIT = re.compile(
    r"""```|~~~                      # fenced code
    |\$\$|\\\(|\\\[|\\begin\{        # math
    |^[ ]{4,}\S.*[;{}][^\S\n]*$      # indented code
    |^[^\S\n]*\|.*\|[^\S\n]*$        # tables
    |</?[a-zA-Z][^<>\n]*>            # HTML
    |^[^\S\n]*>                      # quotes
    """,
    re.MULTILINE | re.VERBOSE,
)
_ITEM = re.compile(r"^[ ]?(\d{1,3})[.)][ \t]+(?=\S)", re.MULTILINE)
_LIST_END = re.compile(r"\n[^\S\n]*\n(?![-*+•][ \t])(?=\S)")
_PARAGRAPH_BREAK = re.compile(r"\n(?:[^\S\n]*\n)+")
_MARKUP_LINE = re.compile(r"^[^\S\n]*(?:#|[-*+•]\s|\d{1,3}[.)]\s|\|)", re.MULTILINE)
_CLOSING = r"[\"'”’)\]*_]*"
_SENTENCE_END = re.compile(rf"[.!?]{_CLOSING}(?=\s)")
_COLON = re.compile(r":[*_]*(?=\s)")
_ABBREVIATION = re.compile(r"\b(?:[A-Za-z]|Dr|Mr|Mrs|Ms|Prof|St|vs|etc|e\.g|i\.e|approx|No|Inc|Jr|Sr)\.$")
_LONGEST_ABBREVIATION = len("approx.")


def extract(text: str) -> ParagraphNode | None:
    """Return the paragraph tree of a response, or None where it is unstructured."""
    if not is_splittable(text):
        return None
    return extract_ordered_list(text) or extract_paragraphs(text)


def is_splittable(text: str) -> bool:
    """Whether a text is free of code, math and markup."""
    return _NEVER_SPLIT.search(text) is None


def flatten(node: ParagraphNode) -> str:
    """Return the text of a paragraph tree in reading order."""
    return "".join(piece.text for piece in node.reading_order())


def extract_ordered_list(text: str) -> ParagraphNode | None:
    """Apply the rule for ordered lists; a text may hold several of them."""
    details = []
    for item, following in pairwise([*_ITEM.finditer(text), None]):
        assert item is not None
        continues = following is not None and int(following[1]) == int(item[1]) + 1
        item_end = following.start() if following else len(text)
        if not continues and (list_end := _LIST_END.search(text, item.end(), item_end)):
            item_end = list_end.start()
        details.append((_root_end(text, item.end(), item_end), item_end))
    return _tree(text, details)


def extract_paragraphs(text: str) -> ParagraphNode | None:
    """Apply the rule for paragraphs separated by blank lines."""
    details = []
    for start, stop in _paragraphs(text):
        sentence_end = _first_sentence_end(text, start, stop)
        if sentence_end is not None and not _MARKUP_LINE.search(text, start, stop):
            details.append((sentence_end, stop))
    return _tree(text, details)


def _tree(text: str, details: Sequence[tuple[int, int]]) -> ParagraphNode | None:
    """Chain the text as siblings that fork at these spans of details; what is between them is their roots.

    Blank details do not fork, and details with only blanks after them are part of a leaf.
    """
    spans = [(start, start + len(text[start:end].rstrip())) for start, end in details]
    spans = [(start, end) for start, end in spans if start < end]
    if len(spans) < MIN_ITEMS:
        return None
    if spans[-1][1] == len(text.rstrip()):
        spans.pop()
    ends = [0, *(end for _, end in spans)]
    node = ParagraphNode(text[ends[-1] :])
    for root_start, (start, end) in reversed(list(zip(ends, spans, strict=False))):
        node = ParagraphNode(text[root_start:start], ParagraphNode(text[start:end]), node)
    return node


def _paragraphs(text: str) -> list[tuple[int, int]]:
    breaks = list(_PARAGRAPH_BREAK.finditer(text))
    starts = [0, *(gap.end() for gap in breaks)]
    ends = [*(gap.start() for gap in breaks), len(text)]
    return list(zip(starts, ends, strict=True))


def _root_end(text: str, start: int, end: int) -> int:
    """Where an item's root ends: after its first colon, first sentence or first line."""
    line_end = text.find("\n", start, end)
    candidates = [end if line_end < 0 else line_end]
    if colon := _COLON.search(text, start, end):
        candidates.append(colon.end())
    if (sentence := _first_sentence_end(text, start, end)) is not None:
        candidates.append(sentence)
    return min(candidates)


def _first_sentence_end(text: str, start: int, end: int) -> int | None:
    for stop in _SENTENCE_END.finditer(text, start, end):
        period = stop.start() + 1
        if not _ABBREVIATION.search(text, max(start, period - _LONGEST_ABBREVIATION), period):
            return stop.end()
    return None
