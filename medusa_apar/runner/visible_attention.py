"""Attention over the slots that each node sees, in C: the work grows with what is seen, not with the whole mask."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.utils import logging

from medusa_apar.cache import cache_folder

logger = logging.get_logger(__name__)

SOURCE = Path(__file__).with_suffix(".c")
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC")
LANES = 8
"""A head has a multiple of so many values."""
DTYPES = (torch.float32, torch.bfloat16)
"""Of keys and values."""


def is_available(config: PretrainedConfig, dtype: torch.dtype, *, exact: bool) -> bool:
    """Whether attention of a model's heads, in a dtype, can be built here."""
    sizes = config.get_text_config()
    head_dim = getattr(sizes, "head_dim", None) or sizes.hidden_size // sizes.num_attention_heads
    kv_heads = getattr(sizes, "num_key_value_heads", None) or sizes.num_attention_heads
    if dtype not in DTYPES or head_dim % LANES:
        return False
    return _library(head_dim, sizes.num_attention_heads // kv_heads, dtype, exact) is not None


def attend_to_visible(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, pools: Tensor | None, scaling: float, *, exact: bool
) -> Tensor:
    """Scaled dot-product attention.

    Args:
        query: `[1, heads, nodes, head_dim]`, of one of `DTYPES`.
        key: `[pools, kv_heads, extent, head_dim]`, of the same dtype.
        value: the same shape.
        mask: `[..., nodes, extent]`, of the same dtype; 0 where a node sees a slot of its pool.
        pools: `[nodes]` int64, where the pool of each node is in `key`; None: the first.
        scaling: of the scores.
        exact: sum in float64, in which the order of sums is lost in the rounding; else in float32.

    Returns:
        `[1, nodes, heads, head_dim]`.
    """
    _, heads, nodes, head_dim = query.shape
    kv_heads, extent = key.shape[1:3]
    library = _library(head_dim, heads // kv_heads, query.dtype, exact)
    assert library is not None
    query, key, value = map(_with_whole_rows, (query, key, value))
    pools = None if pools is None else pools.contiguous()
    mask = mask.contiguous()
    output = query.new_empty(1, nodes, heads, head_dim)
    failed = library.attend(
        query.data_ptr(), *query.stride()[1:3],
        key.data_ptr(), *key.stride()[:3],
        value.data_ptr(), *value.stride()[:3],
        mask.data_ptr(), None if pools is None else pools.data_ptr(),
        output.data_ptr(), nodes, kv_heads, extent, scaling,
    )  # fmt: skip
    if failed:
        raise MemoryError(f"no memory for the scores of {extent} KV slots")
    return output


def _with_whole_rows(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


@cache
def _library(head_dim: int, shared: int, dtype: torch.dtype, exact: bool) -> ctypes.CDLL | None:
    """The function for heads of one shape and dtype; None where no C compiler builds it, which a warning says."""
    shape = (
        f"-DHEAD_DIM={head_dim}", f"-DSHARED={shared}", f"-DBFLOAT16={int(dtype == torch.bfloat16)}",
        f"-DEXACT={int(exact)}",
    )  # fmt: skip
    subject = SOURCE.read_text(encoding="utf-8"), FLAGS, shape, sorted(torch.cpu.get_capabilities().items())
    path = cache_folder("libraries") / f"attention-{sha256(repr(subject).encode()).hexdigest()[:32]}.so"
    try:
        if not path.exists():
            _build(path, shape)
        library = ctypes.CDLL(str(path))
    except (OSError, subprocess.CalledProcessError) as error:
        logger.warning("attention could not be built (%s) and runs slower; install a C compiler", error)
        return None
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    library.attend.argtypes = [
        pointer, size, size,
        pointer, size, size, size,
        pointer, size, size, size,
        pointer, pointer, pointer, size, size, size, ctypes.c_double,
    ]  # fmt: skip
    return library


def _build(path: Path, shape: tuple[str, ...]) -> None:
    """Compile the function into a library.

    Raises:
        OSError: there is no compiler, or the library cannot be written.
        CalledProcessError: the compiler fails.
    """
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise FileNotFoundError("no C compiler")
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent) as folder:
        built = Path(folder) / path.name
        subprocess.run([*compiler.split(), *FLAGS, *shape, str(SOURCE), "-o", str(built)], check=True)
        built.replace(path)
