"""Conversations, in which every turn answers the one before."""

from __future__ import annotations

import re
from collections import Counter

from .blocks import blocks

_TURN = re.compile(
    r"""^[ \t]*(?P<bullet>[-*•–][ \t]+)?(?:\[?\d{1,2}:\d\d(?::\d\d)?\]?[ ]+)?(?:
    [*_\[]{0,3}(?P<speaker>[^\W\d_][\w.'’ -]{0,30}?)[*_\]]{0,3}
        (?:[ ]?\([^()\n]{1,40}\))?[*_]{0,3}[ ]?[:：][*_]{0,3}[ \t]*(?=\S)
    |(?P<cue>[A-Z][A-Z.'’ -]{1,25})(?:[ ]?\([^()\n]{1,40}\))?[ \t]*\n(?=\S)    # as screenplays have it
    )(?P<words>.*)""",
    re.MULTILINE | re.VERBOSE,
)
_NO_SPEAKER = re.compile(
    r"(?:pros?|cons?|advantages?|disadvantages?|examples?|notes?|tips?|problem|solution|cause|effect|title|summary|step|day|"
    r"description|week|verse|chorus|ingredients|instructions|method|price|cost|location|time|date|why|how|what|where|when|"
    r"questions?|answers?|frage|antwort|réponse|pregunta|respuesta)\b.*",
    re.IGNORECASE,
)
_QUESTION_AND_ANSWER = {"q", "a"}
_ADDRESSES = re.compile(
    r"[?!？！]|\b(?:I|I'm|you|your|we|me|my|ich|du|sie|wir|mein|je|j'|tu|vous|nous|yo|usted|io|eu|você|я|ты|вы|мы)\b|[我你您私]",
    re.IGNORECASE,
)
_LEAST_TURNS = 3
_LEAST_SHARE, _LEAST_SHARE_OF_BULLETS = 0.5, 0.8
"""Share of lines that are turns. The others are stage directions and text around the dialogue."""
_LEAST_ADDRESSING = 1 / 3
"""Share of turns that address someone or are in the first person."""

_SPOKEN = re.compile(
    r"""(?<![^\n]\n)^[^\S\n]*(?:[—―][ ]?\S|["“][^"“”\n]*[,.!?…—]["”]|[„«][^„“«»\n]*(?:[,.!?…—][ ]?[“»]|[“»],))""",
    re.MULTILINE,
)
_LEAST_SPOKEN, _SPOKEN_SHARE = 3, 0.5


def is_dialogue(text: str) -> bool:
    """Whether speakers take turns in most lines of a text, or most paragraphs begin with direct speech."""
    return _has_turns(text) or _has_direct_speech(text)


def _has_turns(text: str) -> bool:
    turns = [
        (str(turn["speaker"] or turn["cue"]).strip().casefold(), turn)
        for turn in _TURN.finditer(text)
        if turn["cue"] or not _NO_SPEAKER.fullmatch(turn["speaker"].strip())
    ]
    speakers = Counter(speaker for speaker, _ in turns)
    coming_back = {speaker for speaker, count in speakers.items() if count > 1}
    if len(turns) < _LEAST_TURNS or len(speakers) < 2 or coming_back == _QUESTION_AND_ANSWER:
        return False
    if 2 * sum(speakers[speaker] for speaker in coming_back) < len(turns):
        return False
    addressing = sum(1 for _, turn in turns if _ADDRESSES.search(turn["words"]))
    share = _LEAST_SHARE_OF_BULLETS if any(turn["bullet"] for _, turn in turns) else _LEAST_SHARE
    lines = sum(1 for line in text.split("\n") if line.strip())
    return len(turns) >= share * lines and addressing >= _LEAST_ADDRESSING * len(turns)


def _has_direct_speech(text: str) -> bool:
    spoken = sum(1 for _ in _SPOKEN.finditer(text))
    return spoken >= _LEAST_SPOKEN and spoken >= _SPOKEN_SHARE * sum(1 for _ in blocks(text))
