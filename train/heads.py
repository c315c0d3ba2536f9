"""`medusa-apar train heads`: Medusa heads on a frozen, APAR-tuned backbone.

Source: Medusa-1 (Cai et al. 2024, arXiv 2401.10774), section 2.2.1: cross-entropy of head k weighted
0.8^k, learning rate 1e-3, cosine with warm-up. The labels follow the paragraph tree: head k's label is
the token k + 1 successors on.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedModel, TrainingArguments

from medusa_apar.control_tokens import ControlTokens
from medusa_apar.heads import MedusaHeads

from .backbone import DataArguments, TreeTrainer, last_checkpoint, load_backbone, load_dataset
from .command import InputError, run
from .provenance import write_provenance
from .tree_data import IGNORE_INDEX, TreeCollator

logger = logging.getLogger(__name__)

TOP = 5
"""Accuracies are reported for the best 1 to `TOP` guesses."""

CALIBRATED = 256
"""Tokens of each batch on which the temperatures are fitted."""


@dataclass
class HeadsDataArguments(DataArguments):
    """What to train, and on what; heads are to see what the backbone writes, so nothing is thinned by default."""

    structured_share: float | None = field(  # type: ignore[assignment]
        default=None,
        metadata={"help": "share of responses with a paragraph tree (default: all responses, as they are)"},
    )


@dataclass
class HeadsArguments:
    """Shape of the heads."""

    num_heads: int = field(default=5, metadata={"help": "Medusa heads"})
    num_layers: int = field(default=1, metadata={"help": "residual blocks in a head"})
    shared_projection: bool = field(
        default=False, metadata={"help": "project with the backbone's lm_head: no matrix per head, small files"}
    )
    decay: float = field(default=0.8, metadata={"help": "head k's loss is weighted decay^k"})


@dataclass
class HeadsTrainingArguments(TrainingArguments):
    """transformers' `TrainingArguments` with Medusa-1's settings as defaults."""

    output_dir: str = field(default="runs/heads", metadata={"help": "where checkpoints and the result go"})
    learning_rate: float = 1e-3
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 0.1
    num_train_epochs: float = 2.0
    prediction_loss_only: bool = True
    remove_unused_columns: bool = False
    report_to: str = "none"
    muon: bool = field(default=False, metadata={"help": "Muon for the matrices and AdamW for the rest"})
    label_names: list[str] | None = field(default_factory=lambda: ["head_labels"])


def head_inputs(backbone: PreTrainedModel, batch: dict[str, Any]) -> Tensor:
    """Hidden states `[batch, length, hidden_size]` that enter the backbone's `lm_head`, without gradient."""
    with torch.no_grad():
        body = backbone.base_model(
            input_ids=batch["input_ids"],
            position_ids=batch["position_ids"],
            attention_mask=batch["attention_mask"],
            use_cache=False,
        )
    hidden: Tensor = body.last_hidden_state
    return hidden


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy per label; 0 where there is none, as for a far head on short answers."""
    total = nn.functional.cross_entropy(logits.float(), labels, ignore_index=IGNORE_INDEX, reduction="sum")
    return total / (labels != IGNORE_INDEX).sum().clamp(min=1)


class HeadsTrainer(TreeTrainer):
    """Trains `MedusaHeads`; the backbone stands beside them, frozen, and enters no checkpoint."""

    def __init__(self, backbone: PreTrainedModel, heads: MedusaHeads, *args: Any, decay: float, **kwargs: Any) -> None:
        super().__init__(heads, *args, **kwargs)
        self.backbone = backbone.requires_grad_(False).eval().to(self.args.device)
        self.decay = decay

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        hidden = head_inputs(self.backbone, inputs)
        labels = inputs["head_labels"].transpose(0, 1)  # [heads, batch, length]
        wanted = (labels != IGNORE_INDEX).any(dim=0)
        logits = model(hidden[wanted], self.backbone.get_output_embeddings())
        losses = [mean_loss(*pair) for pair in zip(logits, labels[:, wanted], strict=True)]
        loss = torch.stack([self.decay ** (k + 1) * head_loss for k, head_loss in enumerate(losses)]).sum()
        return (loss, {}) if return_outputs else loss


@torch.inference_mode()
def measure(
    backbone: PreTrainedModel, heads: MedusaHeads, batches: DataLoader[dict[str, Any]]
) -> tuple[list[list[float]], list[float]]:
    """Held-out figures of trained heads.

    Returns:
        Per head the top-1 to top-5 accuracy, and the temperature that calibrates its probabilities.
    """
    shape = (heads.config.num_heads,)
    hits, tokens = torch.zeros(*shape, TOP), torch.zeros(shape)
    temperatures = torch.linspace(0.5, 2.0, 61)
    losses = torch.zeros(*shape, len(temperatures))
    for batch in tqdm(batches, desc="held-out accuracy"):
        labels = batch["head_labels"].transpose(0, 1)
        wanted = (labels != IGNORE_INDEX).any(dim=0)
        logits = heads(head_inputs(backbone, batch)[wanted], backbone.get_output_embeddings()).float()
        for k, (head_logits, head_labels) in enumerate(zip(logits, labels[:, wanted], strict=True)):
            known = head_labels != IGNORE_INDEX
            head_logits, head_labels = head_logits[known], head_labels[known]
            hit = head_logits.topk(TOP).indices == head_labels[:, None]
            hits[k] += hit.sum(dim=0).cumsum(dim=0).cpu()
            tokens[k] += len(head_labels)
            losses[k] += _losses(head_logits[:CALIBRATED], head_labels[:CALIBRATED], temperatures)
    return (hits / tokens.clamp(min=1)[:, None]).tolist(), temperatures[losses.argmin(dim=1)].tolist()


def _losses(logits: Tensor, labels: Tensor, temperatures: Tensor) -> Tensor:
    """Cross-entropy at each temperature; the least calibrates (Guo et al. 2017, arXiv 1706.04599, section 4.2)."""
    losses = [nn.functional.cross_entropy(logits / t, labels, reduction="sum") for t in temperatures.tolist()]
    return torch.stack(losses).cpu()


def train_heads(data: DataArguments, shape: HeadsArguments, args: HeadsTrainingArguments) -> Path:
    """Train heads on `data.model` and save them in `args.output_dir`; goes on from the last checkpoint."""
    backbone, tokenizer = load_backbone(data)
    try:
        ControlTokens.of_tokenizer(tokenizer)
    except ValueError as error:
        raise InputError(f"--model {data.model}: {error}") from error
    heads = MedusaHeads.for_backbone(
        backbone,
        num_heads=shape.num_heads,
        num_layers=shape.num_layers,
        shared_projection=shape.shared_projection,
    )
    assert args.output_dir is not None
    trainer = HeadsTrainer(
        backbone,
        heads,
        args,
        decay=shape.decay,
        data_collator=TreeCollator(
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
            label_heads=shape.num_heads,
        ),
        train_dataset=load_dataset(data.data, tokenizer, data.max_length, data.structured_share),
        eval_dataset=load_dataset(data.eval_data, tokenizer, data.max_length, None) if data.eval_data else None,
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint or last_checkpoint(args.output_dir))
    if data.eval_data:
        accuracy, temperatures = measure(backbone, heads, trainer.get_eval_dataloader())
        heads.config.accuracy = [[round(share, 4) for share in row] for row in accuracy]
        heads.config.calibration_temperature = [round(t, 3) for t in temperatures]
        for k, row in enumerate(heads.config.accuracy, start=1):
            logger.info("head %d: top-1 to top-%d accuracy %s", k, TOP, row)
    heads.config.backbone = data.model
    trainer.save_model()
    trainer.save_state()
    write_provenance(args.output_dir, trainer.state)
    return Path(args.output_dir)


def main(argv: Sequence[str]) -> None:
    """Run `medusa-apar train heads` with these arguments."""
    run(train_heads, (HeadsDataArguments, HeadsArguments, HeadsTrainingArguments), "medusa-apar train heads", argv)
