"""Judgements in FastChat's model_judgment format, which its `show_result` reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from .inquiries import Assessment
from .judgements import Judgement, JudgementStore
from .verdicts import Verdict, rating_of, verdict_of

_UNRATED = -1
_FIRST_ORDER = {Verdict.A: "model_1", Verdict.B: "model_2", Verdict.TIE: "tie", None: "error"}
_SECOND_ORDER = {**_FIRST_ORDER, Verdict.A: "model_2", Verdict.B: "model_1"}


def write_judgments(store: JudgementStore, assessments: Sequence[Assessment]) -> None:
    """Write `single.jsonl` or `pairwise.jsonl` beside the judgements: a line per assessment that was judged."""
    single = assessments[0].baseline is None
    lines = []
    for each in assessments:
        if (said := each.said(store.records)) is not None:
            judge = store.options.model
            row = _rating(each, judge, *said) if single else _comparison(each, judge, said)
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    (store.folder / ("single.jsonl" if single else "pairwise.jsonl")).write_text("".join(lines), encoding="utf-8")


def _rating(assessment: Assessment, judge: str, judgement: Judgement) -> dict[str, Any]:
    rating = rating_of(judgement.text)
    return {
        "question_id": assessment.question.question_id,
        "model": assessment.mode,
        "judge": [judge, judgement.prompt],
        "user_prompt": assessment.inquiries[0].user,
        "judgment": judgement.text,
        "score": _UNRATED if rating is None else rating,
        "turn": assessment.turn,
        "tstamp": judgement.finished_at,
    }


def _comparison(assessment: Assessment, judge: str, judgements: Sequence[Judgement]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "question_id": assessment.question.question_id,
        "model_1": assessment.mode,
        "model_2": assessment.baseline,
        "g1_winner": "tie",
        "g2_winner": "tie",
        "turn": assessment.turn,
    }
    if judgements:
        first, second = judgements
        row |= {
            "g1_winner": _FIRST_ORDER[verdict_of(first.text)],
            "g2_winner": _SECOND_ORDER[verdict_of(second.text)],
            "judge": [judge, first.prompt],
            "g1_user_prompt": assessment.inquiries[0].user,
            "g1_judgment": first.text,
            "g2_user_prompt": assessment.inquiries[1].user,
            "g2_judgment": second.text,
            "tstamp": second.finished_at,
        }
    return row
