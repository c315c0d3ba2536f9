"""A function compiled ahead of time for each kind of arguments, and kept in the user's cache folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from hashlib import sha256
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers.utils import logging

from medusa_apar.cache import cache_folder

logger = logging.get_logger(__name__)

SUFFIX = ".compiled"
INDUCTOR_FOLDER = "TORCHINDUCTOR_CACHE_DIR"
"""Where inductor puts libraries that it builds, by default in a folder that a restart may empty."""


class CompiledFunction:
    """Compiles a method when it is called with arguments that no compiled graph serves.

    Arguments are told apart by their kind, and by the guards on tensors and sizes that the compiler found. What is
    compiled is written to disk, where the next process finds it: it need not trace the function then, which takes most
    of the time.

    Args:
        method: is compiled; the weights that its object holds are inputs of the graph.
        key: names all that the graph depends on beside the arguments; None keeps nothing on disk.
        options: of inductor.
    """

    def __init__(self, method: Any, key: str | None, options: dict[str, Any]) -> None:
        self._function = own_code(method.__func__)
        self._owner = method.__self__
        self._options = options
        self._folder = None if key is None else cache_folder("compiled") / key / method.__qualname__
        self._graphs: dict[str, list[Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        return self._graph(arguments).fn(self._owner, *arguments)

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        """Pickle as an empty object: guards are pickled with the object of the method, and graphs cannot be."""
        return object, ()

    def _graph(self, arguments: tuple[Any, ...]) -> Any:
        """The graph that serves these arguments."""
        kind = kind_of(arguments)
        graphs = self._graphs.setdefault(kind, [])
        for graph in graphs:
            if graph.guard_check(self._owner, *arguments):
                return graph
        path = None
        if self._folder is not None:
            path = self._folder / f"{sha256(kind.encode()).hexdigest()[:16]}-{len(graphs)}{SUFFIX}"
        with _libraries_beside(path):
            kept = None if path is None else self._read(path)
            graph = self._compile(arguments, path) if kept is None else kept
        graphs.append(graph)
        if kept is None or graph.guard_check(self._owner, *arguments):
            return graph
        return self._graph(arguments)  # there may be a file for other sizes, too

    def _compile(self, arguments: tuple[Any, ...], path: Path | None) -> Any:
        with (
            tqdm(desc="compiling steps, which takes minutes the first time", leave=False, bar_format="{desc}"),
            torch._dynamo.config.patch(specialize_float=True),
        ):
            options = self._options | {"guard_filter_fn": _guards_on_arguments}
            compiled: Any = torch.compile(self._function, fullgraph=True, dynamic=True, options=options)
            graph = compiled.aot_compile(((self._owner, *arguments), {}))
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                graph.save_compiled_function(str(path))
            except OSError as error:
                logger.warning("compiled steps could not be kept in %s (%s); each process compiles", path.parent, error)
        return graph

    def _read(self, path: Path) -> Any | None:
        try:
            with path.open("rb") as file:
                return torch.compiler.load_compiled_function(file, f_globals=self._function.__globals__)
        except FileNotFoundError:
            return None
        except Exception as error:  # whatever a torch of another build, or a damaged file, leads to
            logger.warning("compiled steps in %s cannot be read (%s); they are compiled again", path, error)
            return None


def own_code(function: FunctionType) -> FunctionType:
    """The same function with a code object of its own; compiled graphs belong to a code object."""
    own = FunctionType(function.__code__.replace(), function.__globals__, function.__name__, function.__defaults__)
    own.__qualname__, own.__module__ = function.__qualname__, function.__module__
    return own


def kind_of(argument: Any) -> str:
    """What compiled code takes for granted about an argument, beside the sizes of its tensors."""
    if isinstance(argument, Tensor):
        return f"{argument.dtype} {argument.dim()}"
    if isinstance(argument, dict):
        return "{" + ", ".join(f"{name}: {kind_of(value)}" for name, value in sorted(argument.items())) + "}"
    if isinstance(argument, tuple):
        return "(" + ", ".join(map(kind_of, argument)) + ")"
    if is_dataclass(argument):
        return kind_of({each.name: getattr(argument, each.name) for each in fields(argument)})
    return repr(argument) if argument is None or isinstance(argument, int | float) else type(argument).__name__


def _guards_on_arguments(guards: Sequence[Any]) -> list[bool]:
    """Which guards are checked at every call: those on sizes, and on tensors beside the weights and the cache."""
    owned = ("self", "cache")
    return [
        guard.guard_type == "SHAPE_ENV"
        or (guard.guard_type == "TENSOR_MATCH" and not guard.is_global and guard.name.split(".")[0] not in owned)
        for guard in guards
    ]


@contextmanager
def _libraries_beside(path: Path | None) -> Iterator[None]:
    """Let inductor keep its libraries where a graph is kept, unless it has been told where to.

    Inductor cannot pass a path with a space to the C++ compiler.
    """
    folder = "" if path is None else str(path.parents[1] / "libraries")
    if path is None or " " in folder or INDUCTOR_FOLDER in os.environ:
        yield
        return
    os.environ[INDUCTOR_FOLDER] = folder
    try:
        yield
    finally:
        del os.environ[INDUCTOR_FOLDER]
