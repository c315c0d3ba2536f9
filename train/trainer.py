"""A `Trainer` over tree-packed rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import EvalLoopOutput

from .command import InputError
from .fork_decisions import ForkDecisions
from .optimizer import MuonAdamW, muon_parameter_groups

SHOWN = 8
"""Tokens of a row that name it."""


class TreeTrainer(Trainer):
    """A `Trainer` over tree-packed rows that knows `--muon` and stops where the loss is not finite."""

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        if self.optimizer is None and getattr(self.args, "muon", False):
            assert self.model is not None
            self.optimizer = MuonAdamW(
                muon_parameter_groups(self.model), lr=self.args.learning_rate, weight_decay=self.args.weight_decay
            )
        return super().create_optimizer(model) if self.optimizer is None else self.optimizer

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            starts = [row[:SHOWN].tolist() for row in inputs["input_ids"]]
            raise InputError(
                f"the loss of step {self.state.global_step + 1} is {loss.item()}, on the batch of rows that begin with "
                f"the tokens {starts}; look at them, or lower --learning_rate {self.args.learning_rate}; the last "
                f"checkpoint in {self.args.output_dir} is whole"
            )
        return loss


class BackboneTrainer(TreeTrainer):
    """Trains a backbone; evaluations also tell how well it decides to fork."""

    fork_token_id: int
    decisions: ForkDecisions

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        self.decisions = ForkDecisions()
        output = super().evaluation_loop(*args, **kwargs)
        counts = self.decisions.counts.to(self.args.device)
        self.decisions.counts = self.accelerator.reduce(counts).cpu()
        prefix = kwargs.get("metric_key_prefix", "eval")
        assert output.metrics is not None
        output.metrics.update({f"{prefix}_{name}": value for name, value in self.decisions.metrics().items()})
        return output

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        loss, logits, _ = super().prediction_step(model, inputs, False, ["past_key_values"])
        assert isinstance(logits, Tensor)
        self.decisions.note(inputs, logits.argmax(dim=-1), self.fork_token_id)
        return loss, None, None


def last_checkpoint(output_dir: str | None) -> str | None:
    """The checkpoint from which an interrupted run goes on: the last one that was written to its end."""
    states = Path(output_dir or ".").glob(f"checkpoint-*/{TRAINER_STATE_NAME}")
    checkpoints = [state.parent for state in states if state.parent.name.removeprefix("checkpoint-").isdigit()]
    last = max(checkpoints, key=lambda folder: int(folder.name.removeprefix("checkpoint-")), default=None)
    return None if last is None else str(last)
