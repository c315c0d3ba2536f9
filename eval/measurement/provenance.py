"""Where a measurement was made, and by which command: what its figures do not depend on, but a reader wants to know."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers

from medusa_apar.linears.dtype import cpu_has_bfloat16
from medusa_apar.train.training_record import commit, without_secrets

FILE_NAME = "provenance.json"


def write_provenance(folder: Path) -> None:
    """Write `provenance.json` into a folder of results."""
    record = {
        "command": " ".join([Path(sys.argv[0]).name, *without_secrets(sys.argv[1:])]),
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": platform.platform(),
        "python": platform.python_version(),
        "medusa-apar": version("medusa-apar"),
    }
    (folder / FILE_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_provenance(folder: Path) -> dict[str, str]:
    """What `write_provenance` wrote; nothing where it did not."""
    path = folder / FILE_NAME
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def device_name(device: torch.device) -> str:
    """What speeds were measured on: the GPU, or the CPU. Figures of two belong in no table together."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def environment(device: torch.device) -> dict[str, Any]:
    """What figures depend on beside a measurement's own settings."""
    return {
        "device": device_name(device),
        "cpu_threads": torch.get_num_threads(),
        "commit": commit(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def processor() -> str:
    """The name of the CPU, and whether it multiplies in bfloat16, which speeds depend on most."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {'with' if cpu_has_bfloat16() else 'without'} bfloat16 instructions"
