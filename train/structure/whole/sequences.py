"""Steps that depend on earlier ones: moves of a game, and proofs."""

from __future__ import annotations

import re

_STEP = re.compile(r"^[ \t]*(?:[*_]{0,2}(?:Step[ ])?\(?\d{1,3}[.):]?[*_]{0,2}[ \t]+|[-*•][ \t]+)", re.MULTILINE)
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n[ \t]*(?=\S)")

_CHESS = (
    r"(?:O-O(?:-O)?|0-0(?:-0)?|[KQRBNSDTL]?[a-h]?[1-8]?x?[a-h][1-8](?:=[QRBN])?|[a-h][1-8][-x]?[a-h][1-8])[+#!?]{0,2}"
)
_BOARD = r"(?:[A-HJ-T]1?\d|\d{1,2}[-x]\d{1,2})"
"""A move in Go or in draughts. One alone may be something else."""
_MOVE = re.compile(
    rf"(?:\.\.\.[ ]?)?(?:(?:White|Black|[WB]):?[ ])?"
    rf"(?:{_CHESS}(?=[ ]?[.,:;–—-]|[ ]{_CHESS}|$)|{_BOARD}[,;]?[ ]{_BOARD}\b)"
    r"|(?:White|Black|Player[ ](?:\d|[A-Z]\b|One|Two)|[XO])[ ](?=[a-z])",
    re.MULTILINE,
)
_LEAST_MOVES = 2

_INFERENCE = re.compile(
    r"(?:Therefore|Hence|Thus|Consequently|It follows|We (?:conclude|have shown)"
    r"|By (?:the )?(?:definition|hypothesis|assumption|induction|contradiction)"
    r"|Daher|Somit|Folglich|Donc|Ainsi|Por (?:lo )?tanto|Quindi|Portanto|Следовательно|Значит)\b"
    r"|因此|所以|故|したがって|따라서"
)
_OPENING = re.compile(
    r"(?:Let(?! us)|Suppose|Assume|Given|Consider|Sei|Angenommen|Soit|Supposons|Sea|Supongamos)\b|设|假设"
)
_PROOF = (
    "proof", "q.e.d", "qed", "∎", "it follows", "we conclude", "contradiction", "lemma", "theorem", "by induction",
    "beweis", "preuve", "démonstration", "demostración", "证明", "証明",
)  # fmt: skip
_EARLIER = re.compile(
    r"\b(?:from|by|using|in|of|combining|with|aus|nach|de|par|d'après|selon|por|из|по)\s+(?:the\s+)?"
    r"(?:steps?|lines?|equations?|eq\.|statements?|lemmas?|schritt|gleichung|étape|équation|paso|ecuación|шага?)\s*\(?\d"
    r"|\b(?:by|from|using)\s+\(\d\)|(?:由|根据|从)\s*[（(]?(?:步骤|式)?\s*[（(]?\d",
    re.IGNORECASE,
)
_LEAST_INFERENCES = 2


def is_sequence(text: str) -> bool:
    """Whether a text is a list of moves, or a proof whose steps name earlier ones or are inferred from them."""
    steps = [step.end() for step in _STEP.finditer(text)]
    if _count(_MOVE, text, steps) >= _LEAST_MOVES:
        return True
    folded = text.casefold()
    inferred = _count(_INFERENCE, text, [*steps, *(gap.end() for gap in _PARAGRAPH.finditer(text))])
    is_argued = _count(_OPENING, text, steps) > 0 or any(word in folded for word in _PROOF)
    if inferred >= _LEAST_INFERENCES or (inferred > 0 and is_argued):
        return True
    earlier = sum(1 for _ in _EARLIER.finditer(text)) if inferred > 0 or is_argued else 0
    return earlier > (0 if inferred > 0 else 1)


def _count(pattern: re.Pattern[str], text: str, starts: list[int]) -> int:
    return sum(1 for start in starts if pattern.match(text, start))
