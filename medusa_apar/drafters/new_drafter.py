"""The drafter for each kind of heads."""

from __future__ import annotations

from medusa_apar.heads import DraftHeads, Eagle3Heads, MedusaHeads, SequentialHeads
from medusa_apar.linears.prepare import prepare_linears
from medusa_apar.runner.compilation import Compiler
from medusa_apar.runner.model_runner import ModelRunner
from medusa_apar.runner.twin import twin

from .drafter import Drafter
from .eagle3_drafter import Eagle3Drafter
from .parallel_drafter import ParallelDrafter
from .sequential_drafter import SequentialDrafter


def new_drafter(heads: DraftHeads, runner: ModelRunner, compiler: Compiler | None = None) -> Drafter:
    """The drafter for a set of heads, which stay as they are.

    Args:
        heads: the heads.
        runner: of their backbone.
        compiler: of the search; None runs it as it is.
    """
    own, embeddings = twin(heads), runner.model.get_input_embeddings()
    prepare_linears(own, runner.weights)
    if isinstance(own, Eagle3Heads):
        return Eagle3Drafter(own, embeddings, runner, compiler)
    if isinstance(own, SequentialHeads):
        return SequentialDrafter(own, embeddings, runner.lm_head, compiler)
    assert isinstance(own, MedusaHeads)
    return ParallelDrafter(own, runner.lm_head, compiler)
