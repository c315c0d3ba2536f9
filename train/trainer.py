"""A `Trainer` over tree-packed rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env
from peft import PeftModel
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import EvalLoopOutput

from medusa_apar.adapter import save_adapted_config
from medusa_apar.heads import DraftHeads
from medusa_apar.tree.control_tokens import ControlTokens

from .command_line import InputError
from .evaluation.fork_decisions import ForkDecisions
from .evaluation.held_out import HeldOut, measure
from .optimizer import MuonAdamW, muon_parameter_groups
from .rows.tree_data import IGNORE_INDEX
from .training_record import write_provenance

STRUCTURED, UNSTRUCTURED, FLAT = "structured", "unstructured", "flat"
"""Names of held-out rows: of responses with forks, without, and of those with forks once more as text without any."""

SHOWN = 8
"""Tokens of a row that name it."""


@dataclass
class TreeTrainingArguments(TrainingArguments):
    """transformers' `TrainingArguments` for tree-packed rows."""

    lr_scheduler_type: str = "cosine"
    prediction_loss_only: bool = True
    remove_unused_columns: bool = False
    report_to: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        for name in ("lr_scheduler_kwargs", "gradient_checkpointing_kwargs"):
            if isinstance(value := getattr(self, name), str):
                raise ValueError(f"--{name} {value} is not a JSON object; write it in braces")
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if (count := getattr(self, name)) < 1:
                raise ValueError(f"--{name} {count} is below 1; give a positive number")

    @property
    def n_gpu(self) -> int:
        """GPUs of this process: one at most, for `nn.DataParallel` cannot deal trees out; several take a launcher."""
        return min(1, int(super().n_gpu))

    def check_whole(self, what: str) -> None:
        """Raise an InputError where FSDP or DeepSpeed is to spread weights over processes that `what` needs whole."""
        if self.fsdp or parse_flag_from_env("ACCELERATE_USE_FSDP") or self.deepspeed_plugin is not None:
            raise InputError(
                f"{what}: needs the weights whole that FSDP or DeepSpeed spreads over processes; launch without their "
                "configuration, every process then holds all weights"
            )


class TreeTrainer(Trainer):
    """A `Trainer` over tree-packed rows that knows `--muon` and stops where the loss is not finite."""

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        if self.optimizer is None and getattr(self.args, "muon", False):
            assert self.model is not None
            if self.is_deepspeed_enabled:  # which hands matrices over as flat pieces
                raise InputError("--muon: needs the matrices that DeepSpeed takes apart; leave it out, or take FSDP")
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

    def sum_of_processes(self, figures: Tensor) -> Tensor:
        """The sum of what all processes have counted, on the CPU."""
        summed: Tensor = self.accelerator.reduce(figures.to(self.args.device))
        return summed.cpu()

    def finish(self) -> None:
        """Write state and weights, which pushes the folder where `--push_to_hub` asks for that."""
        with self._saving():
            self.save_state()
            self.save_model()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Write weights, tied ones once, and beside them how they were made."""
        if state_dict is not None:  # gathered by FSDP, which has not tied them again
            for name, source in self.accelerator.unwrap_model(self.model).all_tied_weights_keys.items():
                if name in state_dict and torch.equal(state_dict[name], state_dict[source]):
                    del state_dict[name]
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder = output_dir or str(self.args.output_dir)
            model = self.accelerator.unwrap_model(self.model)
            if isinstance(model, PeftModel):
                save_adapted_config(model.config, Path(folder))
            write_provenance(folder, self.state)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with self._saving():
            super()._save_checkpoint(*args, **kwargs)

    @contextmanager
    def _saving(self) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError, RuntimeError) as error:  # torch has no error of its own for a full disk
            raise InputError(
                f"--output_dir {self.args.output_dir}: step {self.state.global_step} could not be saved ({error}); "
                "mend it, and the same command goes on from the last checkpoint that is whole"
            ) from error


class HeadsEvaluation(TreeTrainer):
    """Evaluations also tell how often heads are right.

    Attributes:
        judged: the backbone and its heads.
    """

    judged: tuple[PreTrainedModel, DraftHeads]

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        metrics: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        figures = {f"{metric_key_prefix}_{name}": value for name, value in self.measured(eval_dataset).figures.items()}
        self.log(figures)
        return metrics | figures

    def measured(self, eval_dataset: Any = None) -> HeldOut:
        """What the heads draft on held-out rows, those of all processes together."""
        backbone, heads = self.judged
        return measure(backbone, heads, self.get_eval_dataloader(eval_dataset), self.sum_of_processes)


class BackboneTrainer(TreeTrainer):
    """Trains a backbone; evaluations also tell how well it decides to fork, and what the forks cost.

    Beside the loss comes `text_loss`, that of all tokens but `[Fork]` and EOS, given that it is neither's turn. Over
    structured and unstructured rows together come precision and recall of forks. Where responses were also laid out
    flat, `tree_cost` is how much higher the text loss of their trees is, to this backbone, which reads better what it
    is used to.

    Attributes:
        decisions: to fork, of the last evaluation.
    """

    def __init__(self, *args: Any, control_tokens: ControlTokens, eos_token_id: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.control_tokens = control_tokens
        self.no_text = [control_tokens.fork_token_id, eos_token_id]
        self.decisions = ForkDecisions()
        self.text = torch.zeros(2, dtype=torch.float64)  # summed loss, and tokens
        self.counted: dict[str, ForkDecisions] = {}  # by the prefix of an evaluation's figures

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        metrics: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        parts = [self.counted.pop(f"{metric_key_prefix}_{name}", None) for name in (STRUCTURED, UNSTRUCTURED)]
        self.decisions = sum((part for part in parts if part is not None), ForkDecisions())
        found = self.decisions.metrics()
        tree, flat = (metrics.get(f"{metric_key_prefix}_{name}_text_loss") for name in (STRUCTURED, FLAT))
        if tree is not None and flat is not None:
            found["tree_cost"] = tree / flat - 1
        if found:
            figures = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
            metrics |= figures
            self.log(figures)
        return metrics

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        self.decisions, self.text = ForkDecisions(), torch.zeros(2, dtype=torch.float64)
        output = super().evaluation_loop(*args, **kwargs)
        assert output.metrics is not None
        prefix = kwargs.get("metric_key_prefix", "eval")
        counts, biased = map(self.sum_of_processes, (self.decisions.counts, self.decisions.found))
        self.counted[prefix] = ForkDecisions(counts, biased)
        loss, tokens = self.sum_of_processes(self.text.float()).tolist()
        if tokens:
            output.metrics[f"{prefix}_text_loss"] = loss / tokens
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
        self.decisions.note(inputs, logits, self.control_tokens)
        labels = inputs["labels"]
        is_text = (labels != IGNORE_INDEX) & ~torch.isin(labels, torch.tensor(self.no_text, device=labels.device))
        logits = logits.index_fill(-1, torch.tensor(self.no_text, device=logits.device), -torch.inf)
        text_loss = nn.functional.cross_entropy(logits[is_text].float(), labels[is_text], reduction="sum")
        self.text += torch.tensor([text_loss.item(), is_text.sum().item()], dtype=torch.float64)
        return loss, None, None


def last_checkpoint(output_dir: str | None) -> str | None:
    """The checkpoint from which an interrupted run goes on: the last one that was written to its end."""
    states = Path(output_dir or ".").glob(f"checkpoint-*/{TRAINER_STATE_NAME}")
    checkpoints = [state.parent for state in states if state.parent.name.removeprefix("checkpoint-").isdigit()]
    last = max(checkpoints, key=lambda folder: int(folder.name.removeprefix("checkpoint-")), default=None)
    return None if last is None else str(last)
