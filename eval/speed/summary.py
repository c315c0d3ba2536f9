"""From records of turns to figures per category and mode."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from medusa_apar.modes import Mode
from medusa_apar.train.own_text.repetition import LOOPING_BELOW

from ..decoding.baselines import Baseline
from ..measurement.spread import Spread
from .turns import TurnRecord

OVERALL = "overall"


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryRow:
    """Figures of one mode in one category.

    Attributes:
        category: the category, or `overall`.
        mode: the mode.
        turns: answered turns, which the other figures are about.
        skipped: turns without an answer.
        seconds: mean wall time of a turn; modes that may not fork write other answers, mostly shorter ones.
        tokens_per_second: answer tokens / wall time, prefill included.
        tokens_per_step: answer tokens / steps.
        steps: mean per turn.
        forks: mean per turn.
        forking: share of answers that fork.
        slots_against_ar: peak KV slots / the slots that plain decoding of the same answers holds; None where the peak
            was not measured.
        outside_backbone: share of the wall time outside the backbone; None where it was not measured.
        speed_up: of tokens/s against mode `ar` on the same turns, over questions; None without `ar`.
        against_generate: of tokens/s against transformers' own `generate`, likewise; None without it.
        median_tokens_per_step: over turns.
        looping: share of answers that loop.
    """

    category: str
    mode: str
    turns: int
    skipped: int
    seconds: float
    tokens_per_second: float
    tokens_per_step: float
    steps: float
    forks: float
    forking: float
    slots_against_ar: float | None
    outside_backbone: float | None
    speed_up: Spread | None
    against_generate: Spread | None
    median_tokens_per_step: float
    looping: float


def summarize(records: Iterable[TurnRecord], modes: Sequence[str]) -> list[SummaryRow]:
    """Figures per category, in the records' order, and overall; modes in the given order."""
    by_category: dict[str, list[TurnRecord]] = defaultdict(list)
    everything = []
    for record in records:
        by_category[record.category].append(record)
        everything.append(record)
    groups = [*by_category.items(), (OVERALL, everything)]
    return [_summarize(category, mode, group) for category, group in groups for mode in modes]


def _summarize(category: str, mode: str, records: Sequence[TurnRecord]) -> SummaryRow:
    own = [record for record in records if record.mode == mode]
    answered = [record for record in own if record.skipped is None]
    tokens = sum(record.stats.answer_tokens for record in answered)
    steps = sum(record.stats.steps for record in answered)
    seconds = sum(record.seconds for record in answered)
    backbone_seconds = sum(record.stats.backbone_seconds for record in answered)
    peak_slots = sum(record.stats.peak_slots for record in answered)
    ar_slots = sum(record.stats.ar_slots for record in answered)
    turns = len(answered)
    per_step = [record.stats.answer_tokens / max(1, record.stats.steps) for record in answered]
    return SummaryRow(
        category=category,
        mode=mode,
        turns=turns,
        skipped=len(own) - turns,
        seconds=_ratio(seconds, turns),
        tokens_per_second=_ratio(tokens, seconds),
        tokens_per_step=tokens / max(1, steps),
        steps=_ratio(steps, turns),
        forks=_ratio(sum(record.stats.forks for record in answered), turns),
        forking=_ratio(sum(record.stats.forks > 0 for record in answered), turns),
        slots_against_ar=_ratio(peak_slots, ar_slots) if peak_slots else None,
        outside_backbone=1 - backbone_seconds / seconds if backbone_seconds and seconds else None,
        speed_up=Spread.of(speed_ups(records, mode)),
        against_generate=Spread.of(speed_ups(records, mode, reference=Baseline.GENERATE)),
        median_tokens_per_step=median(per_step) if per_step else 0.0,
        looping=_ratio(sum(record.distinct_4grams < LOOPING_BELOW for record in answered), turns),
    )


def speed_ups(records: Iterable[TurnRecord], mode: str, reference: str = Mode.AR) -> list[float]:
    """Tokens/s of a mode against those of a reference, one value per question, over the turns that both answered."""
    answered = {record.key: record for record in records if record.skipped is None}
    pairs = defaultdict(list)
    for (question_id, turn, record_mode), record in answered.items():
        other = answered.get((question_id, turn, reference))
        if record_mode == mode and other is not None:
            pairs[question_id].append((record, other))
    return [
        tokens_per_second(own for own, _ in turns) / tokens_per_second(other for _, other in turns)
        for turns in pairs.values()
    ]


def tokens_per_second(records: Iterable[TurnRecord]) -> float:
    """Answer tokens of some turns by their wall time, prefill included."""
    tokens, seconds = 0, 0.0
    for record in records:
        tokens += record.stats.answer_tokens
        seconds += record.seconds
    return tokens / seconds


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
