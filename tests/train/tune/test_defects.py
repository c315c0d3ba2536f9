"""Broken structure, told from the text alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medusa_apar.train.own_text.defects import Defect, defects

EMPTY, OPEN, NUMBERING = Defect

SOUND = {
    "plain text": "There is nothing to list here.",
    "nothing": "",
    "titles without details": "1. Work\n2. Money\n3. Family",
    "details after a colon": "1. Work: too much.\n2. Money: too little.",
    "details below a colon": "1. **Work:**\n   Too much of it.\n2. **Money:**\n   Too little.",
    "details after a blank line": "1. Work:\n\nToo much of it.\n\n2. Money:\n\nToo little.",
    "bullets below an item": "1. Work:\n- hours\n- noise\n2. Money:\n- rent",
    "numbers below a bullet": "- Dough:\n1. flour\n2. water\n- Sauce:\n1. tomatoes",
    "bullets below a bullet": "- Work:\n    - hours\n- Money:\n    - rent",
    "code below an item": "1. Run this:\n```sh\nls\n```\n2. Look.",
    "headings with text": "# Stress\n\n## Work\n\nToo much.\n\n## Money\n\nToo little.",
    "a title and its first section": "# Stress\n## Work\nToo much.",
    "bold titles": "**Stress**\n**A guide**\nText.\n\n**The end**",
    "bold headings with text": "**Work:**\nToo much.\n\n**Money**:\nToo little.",
    "a bold heading with sections": "**Stress, in short:**\n\n**Work:**\nToo much.",
    "comments in code": "```python\n# one\n# two\n1. \nx = {\n'a':\n```",
    "code that is not closed": "Try:\n```\n3.\n# a",
    "code at the end": "Try this:\n```\nls:\n```",
    "a rule": "Text.\n\n---\n\n- - -\n\n***",
    "a new list from 1": "1. a\n2. b\n\nAnd then:\n\n1. c\n2. d",
    "a list that goes on from an earlier answer": "4. d\n5. e",
    "ones alone": "1. a\n1. b\n1. c",
    "from zero": "0. a\n1. b",
    "a list in a list": "1. a\n   1. x\n   2. y\n2. b\n   1. z\n3. c",
    "a list in a list that is not indented": "1. a\n1) x\n2) y\n2. b",
    "indentation that drifts": "1. a\n 2. b\n3. c",
    "text between items": "1. a\n\nMore of it.\n\n2. b",
    "numbered headings": "## 1. a\nText.\n### Aside\nText.\n## 2. b\n1. x\n2. y\n## 3. c\nText.",
    "bold items with lists": "**1. a**\n1. x\n2. y\n\n**2. b**\n1. z",
    "lists under headings": "## A\n1. a\n2. b\n## B\n5. c",
    "numbers that are none of a list": "1999. was a year.\n2.5 litres\n3.1 is more.",
    "a colon in the middle": "He said: go.",
}
BROKEN = {
    "a number alone": ("1. Work\n2.\n3. Family", {EMPTY}),
    "a number alone at the end": ("1. Work\n2. Money\n3. ", {EMPTY}),
    "a bullet alone": ("- Work\n-\n- Family", {EMPTY}),
    "a bold title without details": ("1. **Work:**\n2. **Money:** too little.", {EMPTY}),
    "a title without details before a heading": ("- Work:\n\n## Money\n\nToo little.", {EMPTY}),
    "a bullet without details before the next": ("- Work:\n- Money: rent", {EMPTY}),
    "a bullet without details in a list": ("1. a\n- x:\n2. b", {EMPTY}),
    "a heading before the next": ("## Work\n\n## Money\n\nToo little.", {EMPTY}),
    "a heading without a title": ("##\n\n## Money\n\nToo little.", {EMPTY}),
    "a heading before a higher one": ("# Stress\n### Work\n## Money\nToo little.", {EMPTY}),
    "a heading at the end": ("## Work\n\nToo much.\n\n## Money", {EMPTY}),
    "a bold heading before the next": ("**1. Work:**\n\n**2. Money:**\nToo little.", {EMPTY}),
    "a bold heading before a heading": ("**Work:**\n\n## Money\nToo little.", {EMPTY}),
    "an introduction at the end": ("There are three causes:", {OPEN}),
    "a bold introduction at the end": ("Text.\n\nThese are **the causes:**\n\n", {OPEN}),
    "an introduction in Chinese": ("原因如下：", {OPEN}),
    "an item's title at the end": ("1. Work: too much.\n2. Money:", {EMPTY, OPEN}),
    "a bold heading at the end": ("Text.\n\n**Money**:", {EMPTY, OPEN}),
    "a number that is left out": ("1. a\n2. b\n4. c", {NUMBERING}),
    "a number that repeats": ("1. a\n2. b\n2. c", {NUMBERING}),
    "numbers that go back": ("1. a\n2. b\n3. c\n2. d", {NUMBERING}),
    "a heading that is left out": ("## 1. a\nText.\n## 3. b\nText.", {NUMBERING}),
    "a bold number that repeats": ("**1. a**\nText.\n**2. b**\nText.\n**2. c**\nText.", {NUMBERING}),
    "a number that is left out in a list": ("1. a\n   1. x\n   3. y\n2. b", {NUMBERING}),
    "a number that is left out after a list": ("1. a\n   1. x\n   2. y\n3. b", {NUMBERING}),
    "a number left out and an introduction at the end": ("1. a\n3.\n\nAs follows:", {OPEN, NUMBERING}),
}


@pytest.mark.parametrize("answer", SOUND.values(), ids=SOUND.keys())
def test_leaves_sound_answers_alone(answer: str) -> None:
    assert defects(answer) == ()


@pytest.mark.parametrize(("answer", "expected"), BROKEN.values(), ids=BROKEN.keys())
def test_finds_what_is_broken(answer: str, expected: set[Defect]) -> None:
    assert set(defects(answer)) == expected


def test_finds_next_to_nothing_in_published_answers(data_folder: Path) -> None:
    answers = [
        turn
        for name in ("mt_bench/reference-gpt-4.jsonl", "vicuna_bench/answers-vicuna-13b-v1.3.jsonl")
        for line in (data_folder / name).read_text(encoding="utf-8").splitlines()
        for turn in json.loads(line)["choices"][0]["turns"]
    ]
    assert sum(bool(defects(answer)) for answer in answers) <= 0.01 * len(answers)
