"""Loads on an engine that only waits, and what becomes of their records."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from medusa_apar.eval.cli import main
from medusa_apar.eval.serving.arrivals import Arrivals
from medusa_apar.eval.serving.load_plots import plot_kv, plot_loads
from medusa_apar.eval.serving.load_run import LoadRecord, LoadRun, LoadStore
from medusa_apar.eval.serving.load_summary import summarize
from medusa_apar.serving.engines.text_engine import EngineError
from medusa_apar.serving.requests import AnswerRequest
from medusa_apar.serving.snapshots import Piece, Snapshot

from ..rows import row_of


class Waiting:
    """Answers after as many hundredths of a second as the request has prompt tokens; threads halve that."""

    def __init__(self) -> None:
        self.running = self.most_running = self.forgotten = 0

    async def answer(self, request: AnswerRequest) -> AsyncGenerator[Snapshot]:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            seconds = len(request.prompt_token_ids) / 100 / (2 if request.max_depth > 1 else 1)
            if request.prompt_token_ids[0] == 13:
                raise EngineError("an unlucky request")
            yield Snapshot([Piece(0, [1], True)], 1, None)
            await asyncio.sleep(seconds)
            yield Snapshot([Piece(0, [1] * 10, False)], request.max_depth, "stop")
        finally:
            self.running -= 1

    def kv_slots(self) -> dict[str, int]:
        return {}

    async def check(self) -> None: ...

    async def close(self) -> None: ...

    def kv_usage(self) -> float:
        return self.running / 10

    def prefix_tokens(self) -> tuple[float, float]:
        return 0.0, 0.0

    def memory_mib(self) -> float:
        return 100.0

    def requests_left(self) -> int:
        return self.running

    async def forget_prefixes(self) -> None:
        self.forgotten += 1


def requests(count: int = 6) -> list[AnswerRequest]:
    return [AnswerRequest([1, 2, 3], 10, max_depth=2) for _ in range(count)]


def measured(folder: Path, run: LoadRun) -> tuple[LoadStore, Waiting]:
    waiting = Waiting()
    with LoadStore(folder, {"model": "waiting"}) as store:
        asyncio.run(run.run(store, 64, waiting, waiting))
    return store, waiting


@pytest.mark.parametrize("text", ["closed:8", "closed:1000000", "poisson:2.5", "poisson:0.00001"])
def test_arrivals_print_as_they_are_read(text: str) -> None:
    assert str(Arrivals.parse(text)) == text


@pytest.mark.parametrize("text", ["closed:0", "closed:1.5", "poisson:0", "burst:3", "closed"])
def test_arrivals_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="give closed:N for N clients, or poisson:R for R requests a second"):
        Arrivals.parse(text)


def test_a_closed_load_has_so_many_clients_and_a_rate_does_not_wait(tmp_path: Path) -> None:
    _, closed = measured(tmp_path / "closed", LoadRun(requests(12), [Arrivals("closed", 3)], rounds=1))
    assert closed.most_running == 3
    _, rate = measured(tmp_path / "rate", LoadRun(requests(12), [Arrivals("poisson", 2000.0)], rounds=1))
    assert rate.most_running > 6


def test_one_request_is_a_load_too(tmp_path: Path) -> None:
    store, _ = measured(tmp_path, LoadRun(requests(1), [Arrivals("closed", 2)], rounds=1))
    assert [len(record.latencies) for record in store.records.values()] == [1, 1]


def test_a_rate_does_not_wait_behind_its_last_request() -> None:
    async def seconds(requests: int) -> float:
        begin = time.monotonic()
        await Arrivals("poisson", 0.01).send(requests, lambda _: asyncio.sleep(0))
        return time.monotonic() - begin

    assert asyncio.run(seconds(1)) < 1


def test_both_modes_are_measured_and_compared(tmp_path: Path) -> None:
    run = LoadRun(requests(), [Arrivals("closed", 2), Arrivals("closed", 1)], rounds=2)
    store, waiting = measured(tmp_path, run)
    assert len(store.records) == 2 * 2 * 2
    assert waiting.forgotten == 9, "before every load, and before the one that warms up"
    (section,) = summarize(store.records.values())
    assert section.title == "64 blocks"
    assert [(row["arrivals"], row["mode"]) for row in section.rows] == [
        ("closed:1", "ar"), ("closed:1", "apar"), ("closed:2", "ar"), ("closed:2", "apar"),
    ]  # fmt: skip
    plain, threads = row_of(section, "closed:1", "ar"), row_of(section, "closed:1", "apar")
    more = row_of(section, "closed:2", "ar")
    assert plain["tokens/s x ar"] == plain["s/answer x ar"] == plain["ms/token x ar"] == 1.0
    assert threads["tokens/s x ar"] > 1.3
    assert threads["s/answer x ar"] < 0.8
    assert threads["threads"] == 2
    assert more["tokens/s"] > 1.5 * plain["tokens/s"]
    assert plain["percentiles"] == sorted(plain["percentiles"])
    mean, peak = more["KV"]
    assert mean <= peak <= 0.2
    assert plain["MiB"] == (100.0, 100.0)
    assert plain["hits"] is None, "there is no prefix cache"
    assert "| closed:1 | apar |" in section.markdown()
    plot_loads([section], tmp_path / "loads.png", title="loads")
    plot_kv(store.records.values(), tmp_path / "kv.png", title="loads")
    for name in ("loads.png", "kv.png"):
        assert (tmp_path / name).stat().st_size > 10_000


def test_what_is_finished_is_kept(tmp_path: Path) -> None:
    run = LoadRun(requests(), [Arrivals("closed", 2)], rounds=1)
    measured(tmp_path, run)
    store, waiting = measured(tmp_path, LoadRun(requests(), [Arrivals("closed", 2)], rounds=2))
    assert len(store.records) == 4
    assert waiting.forgotten == 3


def test_a_request_that_fails_is_counted_and_the_load_goes_on(tmp_path: Path) -> None:
    asked = [*requests(3), AnswerRequest([13], 10, max_depth=2)]
    store, _ = measured(tmp_path, LoadRun(asked, [Arrivals("closed", 2)], rounds=1))
    for record in store.records.values():
        assert record.errors == ["an unlucky request"]
        assert len(record.latencies) == 3
        assert record.requests_left == 0
        assert record.memory_mib == [100.0]
        assert LoadRecord.from_json(record.to_json()) == record


def test_without_vllm_the_command_says_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("prometheus_client")
    try:
        import vllm  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(SystemExit):
            main(["serving", "--model", "m", "--output_dir", str(tmp_path)])
        assert "this needs vLLM; `make test-serving` builds an environment" in capsys.readouterr().err


def test_a_load_of_which_nothing_is_answered_is_not_kept(tmp_path: Path) -> None:
    """So that the same command measures it again."""
    asked = [AnswerRequest([13], 10, max_depth=2)] * 3
    run = LoadRun(asked, [Arrivals("closed", 2)], rounds=1, modes=["apar"])
    with (
        LoadStore(tmp_path, {"model": "waiting"}) as store,
        pytest.raises(EngineError, match=r"closed:2 in mode apar on 64 blocks: no request was answered \(an unlucky"),
    ):
        asyncio.run(run.run(store, 64, Waiting(), Waiting()))
    assert not store.records
