"""Paragraph trees from text: what the rules find, chained as siblings and nested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from medusa_apar.tree.paragraph_tree import ParagraphNode

from .headings import sections
from .lists import list_items
from .normalization import NormalizedText
from .paragraphs import paragraph_parts
from .parts import Part
from .reasoning import reasoning_end
from .rules import RULES, Rule, Rules
from .whole import stays_whole


def extract(text: str, rules: Rules = RULES) -> ParagraphNode | None:
    """Return the paragraph tree of a response, or None where it is unstructured.

    Every character of the text, whitespace included, belongs to exactly one node: `flatten(extract(text)) == text`.
    Reasoning before the answer (`<think>`) is part of the first node.
    """
    start = reasoning_end(text)
    answer = NormalizedText.of(text[start:])
    spans = _outer_spans(answer.text, 0, len(answer.text), rules)
    if not spans or stays_whole(answer.text):
        return None
    tree = _chain(answer, 0, len(answer.text), spans, rules)
    return replace(tree, text=text[:start] + tree.text)


def flatten(node: ParagraphNode) -> str:
    """Return the text of a paragraph tree in reading order."""
    return "".join(piece.text for piece in node.reading_order())


def find_parts(text: str, start: int, end: int, rules: Rules) -> list[Part]:
    """The outermost parts of a text: its sections, or else the items of its lists and the paragraphs around them."""
    if Rule.HEADINGS in rules.rules and (found := sections(text, start, end, rules.min_items)):
        return found
    items = list(list_items(text, start, end, rules.rules))
    if len(items) < rules.min_items:
        return _paragraphs(text, start, end, rules)
    parts: list[Part] = []
    for item in items:
        # The paragraph right before a list introduces it.
        parts += [part for part in _paragraphs(text, start, item.start, rules) if text[part.end : item.start].strip()]
        parts.append(item)
        start = item.end
    return [*parts, *_paragraphs(text, start, end, rules)]


def find_details(text: str, start: int, end: int, rules: Rules) -> list[tuple[int, int]]:
    """Where the parts of a text have details that are not blank; nothing where these are too few for a structure."""
    parts = find_parts(text, start, end, rules)
    spans = [(part.root_end, part.root_end + len(text[part.root_end : part.end].rstrip())) for part in parts]
    spans = [(first, last) for first, last in spans if first < last]
    return spans if len(spans) >= rules.min_items else []


def ends_with(text: str, end: int, details: tuple[int, int]) -> bool:
    """Whether some part's details are the last thing of a text but for blanks, so that no sibling can follow them."""
    return not text[details[1] : end].strip()


def _paragraphs(text: str, start: int, end: int, rules: Rules) -> list[Part]:
    return list(paragraph_parts(text, start, end)) if Rule.PARAGRAPHS in rules.rules and start < end else []


def _tree(text: NormalizedText, start: int, end: int, rules: Rules) -> ParagraphNode:
    """The tree of a part's details: a leaf where they have no structure, or may not fork any more."""
    spans = _outer_spans(text.text, start, end, rules)
    return _chain(text, start, end, spans, rules)


def _outer_spans(text: str, start: int, end: int, rules: Rules) -> list[tuple[int, int]]:
    """Where the details lie that fork; details with only blanks after them are part of a leaf."""
    if rules.max_depth < 2:
        return []
    spans = find_details(text, start, end, rules)
    return spans[:-1] if spans and ends_with(text, end, spans[-1]) else spans


def _chain(text: NormalizedText, start: int, end: int, spans: Sequence[tuple[int, int]], rules: Rules) -> ParagraphNode:
    """Chain a text as siblings that fork at its details; what is between them is their roots."""
    deeper = replace(rules, max_depth=rules.max_depth - 1)
    starts = [start, *(last for _, last in spans)]
    node = ParagraphNode(text.original_slice(starts[-1], end))
    for root_start, (first, last) in reversed(list(zip(starts, spans, strict=False))):
        node = ParagraphNode(text.original_slice(root_start, first), _tree(text, first, last, deeper), node)
    return node
