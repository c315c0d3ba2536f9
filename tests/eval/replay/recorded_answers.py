"""Recorded answers, written by hand."""

from __future__ import annotations

import json

LISTED = (
    "Here are three colours:\n\n1. Red: it is warm, and bright as fire.\n2. Blue: it is cold, as the sea is.\n"
    "3. Green: it is calm, like grass in spring.\n\nAll of them are colours of the rainbow."
)
PROSE = (
    "There is nothing to list here, and so this answer stays a single paragraph from its first word to its last one."
)


def recorded(number: int, **figures: list[int]) -> str:
    choice = {"index": 0, "turns": [LISTED, PROSE], **figures}
    return json.dumps({"question_id": number, "model_id": "m", "choices": [choice]}) + "\n"
