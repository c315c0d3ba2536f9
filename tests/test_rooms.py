"""A room imports only rooms below it, so that there is no circle; no room is too large, and no name is taken twice."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"heads": "heads", "train": "train", "eval": "eval"}
"""Packages of `medusa_apar` that lie at the top of the repository."""
HEIGHT = {
    **dict.fromkeys(("argument_types", "cache"), 0),
    **dict.fromkeys(("heads", "fingerprint", "modes"), 1),
    **dict.fromkeys(("tree", "kv_cache", "linears"), 1),
    **dict.fromkeys(("runner", "output"), 2),
    **dict.fromkeys(("sampling", "drafters"), 3),
    "drafting": 4,
    "engine": 5,
    **dict.fromkeys(("generation", "adapter", "packaged"), 6),
    "checkpoint": 7,
    "model": 8,
    "__init__": 9,
    "serving": 10,
    "train": 11,
    "eval": 12,
    "cli": 13,
}
"""Modules and rooms of `medusa_apar`. The higher ones may import the lower ones."""
TRAIN = {
    **dict.fromkeys(("command_line", "optimizer", "tree_attention", "prompt_batch", "structure", "recipes"), 0),
    **dict.fromkeys(("batch_log", "claims", "training_record"), 1),
    "rows": 2,
    "evaluation": 3,
    "trainer": 4,
    "backbone": 5,
    "heads": 6,
    "own_text": 7,
    "tune": 8,
}
EVAL = {
    "decoding": 0,
    "measurement": 1,
    **dict.fromkeys(("answers", "speed", "serving"), 2),
    **dict.fromkeys(("batch", "judge", "replay"), 3),
    **dict.fromkeys(("accuracy", "quality"), 4),
    "report": 5,
    "cli": 6,
}
"""Likewise, of the rooms in `train` and `eval`."""
MOST_MODULES = 12


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package, by its dotted name without `medusa_apar`."""
    for top in (ROOT / "medusa_apar", *(ROOT / folder for folder in FOLDERS)):
        for path in sorted(top.rglob("*.py")):
            below = path.relative_to(ROOT / "medusa_apar" if top.name == "medusa_apar" else ROOT)
            yield ".".join(below.with_suffix("").parts), path


def imported(name: str, path: Path) -> Iterator[str]:
    """Dotted names, without `medusa_apar`, of what a module imports when it is imported."""
    package = name.split(".")[:-1]
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            above = package[: len(package) - node.level + 1]
            base = ".".join([*above, *(node.module or "").split(".")]).strip(".")
        elif (node.module or "").split(".")[0] == "medusa_apar":
            base = (node.module or "").partition(".")[2]
        else:
            continue
        yield from [base] if base else [alias.name for alias in node.names if alias.name in HEIGHT]


def height(name: str) -> int:
    return HEIGHT[name.split(".")[0]]


@pytest.mark.parametrize(("name", "path"), [*modules()], ids=[name for name, _ in modules()])
def test_a_room_imports_only_rooms_below_it(name: str, path: Path) -> None:
    room = name.split(".")[0]
    for other in imported(name, path):
        assert other.split(".")[0] == room or height(other) < height(name), f"{name} imports {other}"


@pytest.mark.parametrize(("name", "path"), [*modules()], ids=[name for name, _ in modules()])
def test_a_room_of_training_or_evaluation_imports_only_rooms_below_it(name: str, path: Path) -> None:
    top, _, own = name.partition(".")
    heights = {"train": TRAIN, "eval": EVAL}.get(top)
    if heights is None or own == "__init__":
        return
    room = own.split(".")[0]
    for other in imported(name, path):
        if other.startswith(f"{top}."):
            below = other.split(".")[1]
            assert below == room or heights[below] < heights[room], f"{name} imports {other}"


def test_the_rule_sees_imports() -> None:
    found = dict(modules())
    assert "tree.control_tokens" in set(imported("engine.engine", found["engine.engine"]))
    assert "model" in set(imported("serving.engines.native", found["serving.engines.native"]))


ROOMS = [
    folder
    for top in (ROOT / "medusa_apar", *(ROOT / folder for folder in FOLDERS))
    for folder in (top, *top.rglob("*"))
    if (folder / "__init__.py").is_file()
]


@pytest.mark.parametrize("room", ROOMS, ids=[str(room.relative_to(ROOT)) for room in ROOMS])
def test_a_room_has_at_most_a_dozen_modules(room: Path) -> None:
    own = [path for path in room.glob("*.py") if path.name != "__init__.py"]
    assert len(own) <= MOST_MODULES


def test_a_name_of_a_module_means_one_thing() -> None:
    """`command`, `cli`, `tables` and `training` are those of their room."""
    names = [path.stem for top in ("medusa_apar", *FOLDERS) for path in (ROOT / top).rglob("*.py")]
    twice = {name for name in names if names.count(name) > 1}
    assert twice <= {"__init__", "cli", "command", "tables", "training"}, twice
