"""`medusa-apar train joint`: backbone and heads together, so that the backbone becomes easier to draft for.

Source: Medusa-2 (Cai et al. 2024, arXiv 2401.10774), section 2.2.2: the heads' loss counts a fifth beside the
backbone's own and rises along a sine, the heads learn faster than the backbone, and both start from Medusa-1. Both
learn the tokens of the rows, also where these are the backbone's own answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import pi, sin
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from medusa_apar.heads import DraftHeads
from medusa_apar.heads.checkpoints.loading import load_heads

from ..claims import claim
from ..command_line import InputError, run
from ..evaluation.places import Places, backbone_logits, head_inputs, labels_of
from ..rows.tree_data import TreeCollator
from ..trainer import HeadsEvaluation, TreeTrainingArguments, last_checkpoint
from ..training_record import write_provenance
from .training import HeadsDataArguments, decayed, mean_loss

HEADS = "heads"
"""Folder of the heads within that of their backbone."""


@dataclass(kw_only=True)
class JointArguments:
    """How backbone and heads learn together."""

    heads: str | None = field(
        default=None, metadata={"help": "folder or hub id of trained heads (default: `heads` in the backbone's folder)"}
    )
    medusa_heads_coefficient: float = field(default=0.2, metadata={"help": "weight of the heads' loss, at the end"})
    medusa_lr_multiplier: float = field(default=4.0, metadata={"help": "how much faster the heads learn"})
    decay: float = field(default=0.8, metadata={"help": "head k's loss is weighted decay^k"})


@dataclass
class JointTrainingArguments(TreeTrainingArguments):
    """transformers' `TrainingArguments`; the learning rate is the backbone's."""

    output_dir: str = field(default="runs/joint", metadata={"help": "where checkpoints and the result go"})
    learning_rate: float = 2e-5
    warmup_steps: float = 0.1
    num_train_epochs: float = 1.0
    label_names: list[str] | None = field(default_factory=lambda: ["labels"])


class Joint(nn.Module):
    """A backbone with its heads."""

    accepts_loss_kwargs = False  # its loss is a mean over each batch, not over all that are accumulated

    def __init__(self, backbone: PreTrainedModel, heads: DraftHeads, decay: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = heads
        self.decay = decay

    @property
    def config(self) -> PretrainedConfig:
        """The backbone's configuration, where `Trainer` looks for what a model card says."""
        return self.backbone.config

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Compute the backbone's activations anew in the backward pass (`--gradient_checkpointing`)."""
        self.backbone.activation_checkpointing_enable(**options)

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """The same, by the older of transformers' two names for it."""
        self.backbone.gradient_checkpointing_enable(**options)

    def forward(self, **batch: Any) -> tuple[Tensor, Tensor]:
        """The backbone's loss per token on a batch of `TreeCollator`, and the heads' weighted sum."""
        hidden = head_inputs(self.backbone, batch)
        own = mean_loss(backbone_logits(self.backbone, hidden).flatten(0, 1), batch["labels"].flatten())
        places = Places.of_batch(hidden, batch)
        logits = places.logits(self.heads, self.backbone)
        losses = [mean_loss(*each) for each in zip(logits, labels_of(self.heads, places), strict=True)]
        return own, decayed(losses, self.decay)


class JointTrainer(HeadsEvaluation):
    """Trains both; checkpoints are folders of the backbone with its heads inside. `eval_loss` is the backbone's own."""

    def __init__(self, joint: Joint, *args: Any, joint_arguments: JointArguments, **kwargs: Any) -> None:
        super().__init__(joint, *args, **kwargs)
        self.joint = joint
        self.judged = joint.backbone, joint.heads
        self.joint_arguments = joint_arguments

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        if self.optimizer is None:
            faster = self.args.learning_rate * self.joint_arguments.medusa_lr_multiplier
            decayed = set(self.get_decay_parameter_names(self.joint))
            named = list(self.joint.named_parameters())
            groups = [
                {
                    "params": [each for name, each in named if name.startswith(part) and (name in decayed) is decays],
                    "lr": rate,
                    "weight_decay": self.args.weight_decay if decays else 0.0,
                }
                for part, rate in (("backbone.", self.args.learning_rate), ("heads.", faster))
                for decays in (True, False)
            ]
            optimizer, options = self.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer = optimizer(groups, **options)
        return self.optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        loss, heads = model(**inputs)
        if model.training:
            progress = self.state.global_step / max(1, self.state.max_steps)
            loss = loss + self.joint_arguments.medusa_heads_coefficient * sin(pi / 2 * progress) * heads
        return (loss, {}) if return_outputs else loss

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not self.args.should_save:
            return
        assert self.args.output_dir is not None
        folder = Path(output_dir or self.args.output_dir)
        self.joint.backbone.save_pretrained(folder)
        self.joint.heads.save_pretrained(folder / HEADS)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)
        for made in (folder, folder / HEADS):
            write_provenance(made, self.state)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        backbone: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=self.joint.backbone.dtype)
        self.joint.backbone.load_state_dict(backbone.state_dict())
        self.joint.heads.load_state_dict(load_heads(folder / HEADS, dtype=self.joint.heads.dtype).state_dict())

    def _load_best_model(self) -> None:
        assert self.state.best_model_checkpoint is not None
        self._load_from_checkpoint(self.state.best_model_checkpoint)


def train_joint(data: HeadsDataArguments, joint: JointArguments, args: JointTrainingArguments) -> Path:
    """Train backbone and heads and save them in `args.output_dir`; goes on from the last checkpoint."""
    data.check_device(args.device)
    args.check_whole("train joint")
    backbone, tokenizer = data.load()
    backbone.to(args.device)  # type: ignore[arg-type]
    source = joint.heads or str(Path(data.model) / HEADS)
    try:
        heads = load_heads(source, backbone)
    except (OSError, ValueError) as error:
        raise InputError(f"--heads {source}: {error}") from error
    if heads.auxiliary_layers:
        raise InputError(f"--heads {source}: EAGLE-3 heads learn beside a frozen backbone; use `train heads`")
    assert args.output_dir is not None
    folder = Path(args.output_dir)
    claim(args, backbone, data.data, data, joint)
    with args.main_process_first(local=args.save_on_each_node):
        rows, held_out = data.all_rows(backbone, tokenizer, args.output_dir)
    joint_model = Joint(backbone, heads, joint.decay)
    trainer = JointTrainer(
        joint_model,
        args,
        joint_arguments=joint,
        data_collator=TreeCollator.of(tokenizer, label_heads=heads.config.num_heads),
        train_dataset=rows,
        eval_dataset=held_out,
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint or last_checkpoint(args.output_dir))
    if held_out is not None:
        trainer.save_metrics("eval", trainer.evaluate())
        joint_model.eval()
        trainer.measured().record_in(heads.config)
    heads.config.backbone = str(folder)
    trainer.finish()
    return folder


def main(argv: Sequence[str]) -> None:
    """Run `medusa-apar train joint` with these arguments."""
    run(train_joint, (HeadsDataArguments, JointArguments, JointTrainingArguments), "medusa-apar train joint", argv)
