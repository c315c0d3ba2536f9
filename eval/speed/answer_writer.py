"""Answers in FastChat's model_answer format, which its judges read."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..measurement.question_sets import Question
from .turns import TurnKey, TurnRecord


def write_answers(
    path: Path, model: str, mode: str, questions: Sequence[Question], records: Mapping[TurnKey, TurnRecord]
) -> None:
    """Write the answers of one mode, one question per line; a skipped turn's answer is empty.

    Args:
        path: the file.
        model: the model's name.
        mode: whose answers.
        questions: the questions, all of whose turns have a record.
        records: the records.
    """
    with path.open("w", encoding="utf-8") as file:
        for question in questions:
            id_ = question.question_id
            turns = [records[id_, turn, mode] for turn in range(1, len(question.turns) + 1)]
            row = {
                "question_id": id_,
                "answer_id": uuid.uuid5(uuid.NAMESPACE_URL, f"{model}/{mode}/{id_}").hex,
                "model_id": f"{model}-{mode}",
                "choices": [{"index": 0, "turns": [turn.answer for turn in turns]}],
                "tstamp": turns[-1].finished_at,
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
