"""Judgements in FastChat's model_judgment format, which its `show_result` reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .inquiries import Grading, Match
from .judgements import Judgement
from .verdicts import Verdict, rating_of, verdict_of

_UNRATED = -1
_FIRST_ORDER = {Verdict.A: "model_1", Verdict.B: "model_2", Verdict.TIE: "tie", None: "error"}
_SECOND_ORDER = {Verdict.A: "model_2", Verdict.B: "model_1", Verdict.TIE: "tie", None: "error"}


def write_ratings(
    path: Path, judge_model: str, gradings: Iterable[Grading], judgements: Mapping[str, Judgement]
) -> None:
    """Write a line per answer that was judged; the score of one without a rating is -1."""
    rows = []
    for grading in gradings:
        judgement = judgements.get(grading.inquiry.digest)
        if judgement is None:
            continue
        rating = rating_of(judgement.text)
        rows.append(
            {
                "question_id": grading.question.question_id,
                "model": grading.mode,
                "judge": [judge_model, grading.inquiry.prompt],
                "user_prompt": grading.inquiry.user,
                "judgment": judgement.text,
                "score": _UNRATED if rating is None else rating,
                "turn": grading.turn,
                "tstamp": judgement.finished_at,
            }
        )
    _write(path, rows)


def write_comparisons(
    path: Path, judge_model: str, matches: Iterable[Match], judgements: Mapping[str, Judgement]
) -> None:
    """Write a line per comparison that was judged in both orders, or was one of an answer with the same one."""
    rows = []
    for match in matches:
        row: dict[str, Any] = {
            "question_id": match.question.question_id,
            "model_1": match.mode,
            "model_2": match.baseline,
            "g1_winner": "tie",
            "g2_winner": "tie",
            "turn": match.turn,
        }
        if match.inquiries:
            first, second = (judgements.get(inquiry.digest) for inquiry in match.inquiries)
            if first is None or second is None:
                continue
            row |= {
                "g1_winner": _FIRST_ORDER[verdict_of(first.text)],
                "g2_winner": _SECOND_ORDER[verdict_of(second.text)],
                "judge": [judge_model, match.inquiries[0].prompt],
                "g1_user_prompt": match.inquiries[0].user,
                "g1_judgment": first.text,
                "g2_user_prompt": match.inquiries[1].user,
                "g2_judgment": second.text,
                "tstamp": second.finished_at,
            }
        rows.append(row)
    _write(path, rows)


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
