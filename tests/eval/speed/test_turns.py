"""The store of finished turns."""

from __future__ import annotations

from pathlib import Path

import pytest

from medusa_apar.eval.speed.turns import TurnStore

from ..scripted_model import record

SETTINGS = {"model": "m", "modes": ("ar", "apar"), "max_new_tokens": 8}
ONE = record(1, "ar", answer="Grüße\n\u2028", answer_tokens=3, steps=2, mean_slots=1.5)
TWO = record(2, "ar", skipped="too long")


def test_keeps_turns_over_a_restart(tmp_path: Path) -> None:
    with TurnStore(tmp_path / "new" / "out", SETTINGS) as store:
        store.add(ONE)
        assert len(store.path.read_bytes().splitlines()) == 1
        store.add(TWO)
    with TurnStore(tmp_path / "new" / "out", SETTINGS) as store:
        assert store.records == {ONE.key: ONE, TWO.key: TWO}
        assert (1, 1, "ar") in store
        assert (1, 2, "ar") not in store
        assert store[1, 1, "ar"].answer == "Grüße\n\u2028"


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_drops_an_unfinished_last_line(tmp_path: Path, kept: int) -> None:
    with TurnStore(tmp_path, SETTINGS) as store:
        store.add(ONE)
    with store.path.open("ab") as file:
        file.write(TWO.to_json()[:kept])
    with TurnStore(tmp_path, SETTINGS) as store:
        assert store.records == {ONE.key: ONE}
        store.add(TWO)
    assert store.path.read_bytes() == ONE.to_json() + TWO.to_json()


def test_a_full_disk_is_named_and_loses_nothing(tmp_path: Path) -> None:
    store = TurnStore(tmp_path, SETTINGS)
    store.add(ONE)
    store._file = Path("/dev/full").open("ab")  # noqa: SIM115
    with (
        pytest.raises(ValueError, match=r"out=.*could not be kept \(.*No space left.*goes on after the 1 that"),
        store,
    ):
        store.add(TWO)
    with TurnStore(tmp_path, SETTINGS) as again:
        assert again.records == {ONE.key: ONE}


def test_refuses_other_settings(tmp_path: Path) -> None:
    with TurnStore(tmp_path, SETTINGS) as store:
        store.add(ONE)
    with pytest.raises(ValueError, match=r"\(max_new_tokens was 8, is 9\).*--output_dir"):
        TurnStore(tmp_path, SETTINGS | {"max_new_tokens": 9})
    assert store.path.read_bytes() == ONE.to_json()


def test_refuses_turns_of_unknown_settings(tmp_path: Path) -> None:
    (tmp_path / "turns.jsonl").write_bytes(ONE.to_json())
    with pytest.raises(ValueError, match=r"exists without settings\.json"):
        TurnStore(tmp_path, SETTINGS)


@pytest.mark.parametrize("line", [b"{broken\n", b"[]\n", b'{"question_id": 1}\n', b'{"stats": {"unknown": 1}}\n'])
def test_names_a_broken_line_by_number(tmp_path: Path, line: bytes) -> None:
    with TurnStore(tmp_path, SETTINGS) as store:
        store.add(ONE)
    store.path.write_bytes(ONE.to_json() + line + TWO.to_json())
    with pytest.raises(ValueError, match=r"turns\.jsonl, line 2: "):
        TurnStore(tmp_path, SETTINGS)
