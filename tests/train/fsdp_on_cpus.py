"""`medusa-apar`, to be launched by accelerate, with FSDP in processes that have no GPU.

accelerate takes up FSDP for accelerators alone. The process group is gloo's and every tensor is the CPU's; only
accelerate is told that these are the processes of GPUs.
"""

from __future__ import annotations

from typing import Any

from accelerate.state import DistributedType, PartialState

from medusa_apar.cli import main

_initialize = PartialState.__init__


def _as_of_gpus(self: PartialState, *args: Any, **kwargs: Any) -> None:
    _initialize(self, *args, **kwargs)
    if self.distributed_type is DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


if __name__ == "__main__":
    PartialState.__init__ = _as_of_gpus
    main()
