"""How fast each mode is in each category, from the records of turns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

from medusa_apar.modes import Mode
from medusa_apar.train.own_text.repetition import LOOPING_BELOW

from ..decoding.baselines import Baseline
from ..decoding.peers import Peer
from ..measurement.spread import Spread
from ..measurement.tables import OVERALL, Column, Section, counts, interval_figures, spread_figures
from .turns import TurnRecord


@dataclass(frozen=True)
class ModeTurns:
    """The turns of one mode, and those of all modes that they are compared with.

    Attributes:
        mode: the mode.
        records: of all modes, in one category or in all.
    """

    mode: str
    records: Sequence[TurnRecord]

    @cached_property
    def own(self) -> list[TurnRecord]:
        """Turns of this mode."""
        return [record for record in self.records if record.mode == self.mode]

    @cached_property
    def answered(self) -> list[TurnRecord]:
        """Those with an answer."""
        return [record for record in self.own if record.skipped is None]

    def total(self, figure: Callable[[TurnRecord], float]) -> float:
        """Sum of a figure over the answered turns."""
        return sum(map(figure, self.answered))

    def mean(self, figure: Callable[[TurnRecord], float]) -> float | None:
        """Mean of a figure over the answered turns; None without any."""
        return self.total(figure) / len(self.answered) if self.answered else None

    @property
    def tokens(self) -> float:
        """Of all answers."""
        return self.total(lambda record: record.stats.answer_tokens)

    @property
    def steps(self) -> float:
        """Of all answers; at least 1, for answers that end with the prefill."""
        return max(1, self.total(lambda record: record.stats.steps))

    @property
    def seconds(self) -> float:
        """Of all answers."""
        return self.total(lambda record: record.seconds)

    @property
    def slots_against_ar(self) -> float | None:
        """Peak KV slots by those that plain decoding of the same answers holds; None where they were not counted."""
        peak = self.total(lambda record: record.stats.peak_slots)
        return peak / self.total(lambda record: record.stats.ar_slots) if peak else None

    @property
    def outside_backbone(self) -> float | None:
        """Share of the wall time; None where it was not measured."""
        inside = self.total(lambda record: record.stats.backbone_seconds)
        return 1 - inside / self.seconds if inside else None

    @property
    def median_tokens_per_step(self) -> float | None:
        """Over answered turns; None without any."""
        figures = [record.stats.answer_tokens / max(1, record.stats.steps) for record in self.answered]
        return median(figures) if figures else None

    @property
    def first_token_milliseconds(self) -> float | None:
        """Median over answered turns; None where it was not measured."""
        figures = [record.stats.first_token_seconds for record in self.answered]
        return 1000 * median(figures) if any(figures) else None

    @property
    def megabytes(self) -> float | None:
        """Most memory that the process held after an answer; None where it was not measured."""
        return max((record.memory for record in self.answered), default=0) / 1e6 or None

    @cached_property
    def speed_up(self) -> Spread | None:
        """Of tokens/s against mode `ar` on the same turns, over questions; None without it."""
        return Spread.of(speed_ups(self.records, self.mode))

    @property
    def against_generate(self) -> Spread | None:
        """The same against transformers' `generate`."""
        return Spread.of(speed_ups(self.records, self.mode, reference=Baseline.GENERATE))

    @property
    def against_llama_cpp(self) -> Spread | None:
        """The same against llama.cpp, without its lookup of draft tokens."""
        return Spread.of(speed_ups(self.records, self.mode, reference=Peer.LLAMA_CPP))


COLUMNS: tuple[Column[ModeTurns], ...] = (
    Column("turns", lambda turns: (len(turns.answered), len(turns.own) - len(turns.answered)), counts,
           "answered + skipped"),
    Column("tokens/s", lambda turns: turns.tokens / turns.seconds if turns.answered else None, ".1f",
           "visible tokens of the answers by the wall time, prefill included"),
    Column("tokens/step", lambda turns: turns.tokens / turns.steps if turns.answered else None, ".2f"),
    Column("steps", lambda turns: turns.mean(lambda record: record.stats.steps), ".0f", "mean per turn"),
    Column("forked", lambda turns: turns.mean(lambda record: record.stats.forks > 0), ".0%",
           "share of answers with a fork"),
    Column("slots/ar", lambda turns: turns.slots_against_ar, ".2f",
           "peak KV slots against what plain decoding of the same answers holds"),
    Column("x gen", lambda turns: turns.against_generate, lambda spread: f"{spread.median:.2f}",
           "tokens/s against transformers' generate, median over questions"),
    Column("speed-up", lambda turns: turns.speed_up, spread_figures,
           "of tokens/s against mode ar, median (quartiles) over questions"),
    Column("loops", lambda turns: turns.mean(lambda record: record.distinct_4grams < LOOPING_BELOW), ".0%",
           f"share of answers with distinct 4-grams below {LOOPING_BELOW}"),
    Column("95 %", lambda turns: turns.speed_up, interval_figures,
           "confidence interval of the speed-up's median, by bootstrap", on_terminal=False),
    Column("median/step", lambda turns: turns.median_tokens_per_step, ".2f",
           "median of tokens per step over turns", on_terminal=False),
    Column("forks", lambda turns: turns.mean(lambda record: record.stats.forks), ".1f", "mean per turn",
           on_terminal=False),
    Column("x llama", lambda turns: turns.against_llama_cpp, spread_figures,
           "tokens/s against llama.cpp, median (quartiles) over questions", on_terminal=False),
    Column("first", lambda turns: turns.first_token_milliseconds, ".0f", "median ms to the first token",
           on_terminal=False),
    Column("MB", lambda turns: turns.megabytes, ".0f", "most memory that the process held; modes and transformers "
           "share one", on_terminal=False),
    Column("outside", lambda turns: turns.outside_backbone, ".0%", "share of the time outside the backbone",
           on_terminal=False),
    Column("ms/step", lambda turns: 1000 * turns.seconds / turns.steps if turns.answered else None, ".1f",
           on_terminal=False),
    Column("s/turn", lambda turns: turns.mean(lambda record: record.seconds), ".2f",
           "modes that may not fork write other answers, mostly shorter ones", on_terminal=False),
)  # fmt: skip


def summarize(records: Iterable[TurnRecord], modes: Sequence[str]) -> Section[ModeTurns]:
    """Figures per category, in the records' order, and overall; modes in the given order."""
    by_category: dict[str, list[TurnRecord]] = defaultdict(list)
    for record in (records := list(records)):
        by_category[record.category].append(record)
    by_category[OVERALL] = records
    groups = {(category, mode): ModeTurns(mode, own) for category, own in by_category.items() for mode in modes}
    return Section("Speed", ("category", "mode"), COLUMNS, groups)


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
