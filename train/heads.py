"""`medusa-apar train heads`: Medusa heads, or sequential ones, on a frozen, APAR-tuned backbone.

Source: Medusa-1 (Cai et al. 2024, arXiv 2401.10774), section 2.2.1: cross-entropy of head k weighted
0.8^k, learning rate 1e-3, cosine with warm-up. The labels follow the paragraph tree: head k's label is
the token k + 1 successors on.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from medusa_apar.control_tokens import ControlTokens
from medusa_apar.heads import DraftHeads, MedusaHeads, SequentialHeads
from medusa_apar.heads.config import HeadsConfig

from .backbone import DataArguments, load_backbone
from .command import InputError, run
from .own_answers import own_answers
from .provenance import write_provenance
from .responses import BadRows, read_responses
from .trainer import TreeTrainer, last_checkpoint
from .tree_data import IGNORE_INDEX, NO_SUCCESSOR, PackedRows, TreeCollator, TreeRow, next_token_labels, pack

logger = logging.getLogger(__name__)

TOP = 5
"""Accuracies are reported for the best 1 to `TOP` guesses."""

CALIBRATED = 256
"""Tokens of each batch on which the temperatures are fitted."""


@dataclass(kw_only=True)
class HeadsDataArguments(DataArguments):
    """What to train, and on what; heads are to see what the backbone writes, so nothing is thinned by default."""

    structured_share: float | None = field(
        default=None,
        metadata={"help": "share of responses with a paragraph tree (default: all responses, as they are)"},
    )
    labels: str = field(
        default="data",
        metadata={
            "choices": ["data", "self"],
            "help": "data: the responses; self: the backbone's own answers to the prompts, and its own distribution",
        },
    )

    max_new_tokens: int = field(default=512, metadata={"help": "of the backbone's own answers"})

    def labelled_rows(
        self, files: list[str], backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, own: Path
    ) -> Dataset[TreeRow]:
        """Rows of conversations; answers of the backbone itself are kept in the file `own`."""
        if self.labels == "data":
            return self.rows(files, tokenizer, self.structured_share)
        bad_rows = BadRows()
        questions = [row.question for file in files for row in read_responses(file, bad_rows)]
        questions = list({json.dumps(question): question for question in questions}.values())
        answers = own_answers(backbone, tokenizer, questions, own, max_new_tokens=self.max_new_tokens)
        fitting = [row for row in answers if len(row) <= self.max_length]
        logger.info("%s: %d answers, %d too long", own, len(answers), len(answers) - len(fitting))
        if not fitting:
            raise InputError(f"--max_length {self.max_length} leaves none of {len(answers)} answers; give more")
        return PackedRows(pack(fitting, self.max_length))


@dataclass
class HeadsArguments:
    """Kind and shape of the heads."""

    kind: str = field(
        default="medusa",
        metadata={
            "choices": ["medusa", "sequential"],
            "help": "medusa: each head sees the hidden state alone; sequential: also the guesses before its own",
        },
    )
    num_heads: int = field(default=5, metadata={"help": "tokens that are guessed ahead"})
    num_layers: int = field(default=1, metadata={"help": "residual blocks in a Medusa head"})
    shared_projection: bool = field(
        default=False,
        metadata={"help": "Medusa heads project with the backbone's lm_head: no matrix per head, small files"},
    )
    intermediate_size: int | None = field(
        default=None, metadata={"help": "inner width of sequential heads (default: four times the hidden size)"}
    )
    draft_vocab_size: int | None = field(
        default=None,
        metadata={
            "help": "sequential heads guess among the commonest tokens, so many less one, which stands for all others "
            "(default: among all)"
        },
    )
    decay: float = field(default=0.8, metadata={"help": "head k's loss is weighted decay^k"})

    def untrained(self, backbone: PreTrainedModel, rows: Iterable[TreeRow]) -> DraftHeads:
        """Heads of this kind and shape for a backbone and what is to be guessed."""
        for name, least in (("intermediate_size", 1), ("draft_vocab_size", 2)):
            given = getattr(self, name)
            if given is not None and self.kind != "sequential":
                raise InputError(f"--{name} {given} is for --kind sequential; leave it out")
            if given is not None and given < least:
                raise InputError(f"--{name} {given} is too small; give a whole number from {least}")
        if self.kind == "sequential":
            size = self.draft_vocab_size
            return SequentialHeads.for_backbone(
                backbone,
                num_heads=self.num_heads,
                intermediate_size=self.intermediate_size,
                draft_token_ids=None if size is None else commonest_tokens(rows, size - 1),
            )
        return MedusaHeads.for_backbone(
            backbone,
            num_heads=self.num_heads,
            num_layers=self.num_layers,
            shared_projection=self.shared_projection,
        )


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


def commonest_tokens(rows: Iterable[TreeRow], count: int) -> Tensor:
    """The tokens that come most often where something is to be guessed, rising: `[count]`, or as many as there are."""
    counts = Counter(label for row in rows for label in next_token_labels(row) if label != IGNORE_INDEX)
    return torch.tensor(sorted(token for token, _ in counts.most_common(count)))


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


def guessed_places(batch: dict[str, Any]) -> Tensor:
    """Where something is guessed in a batch, `[batch, length]`: behind a chosen token, and before another one."""
    known: Tensor = (batch["labels"] != IGNORE_INDEX) & (batch["head_labels"][:, 0] != IGNORE_INDEX)
    return known


@dataclass(frozen=True, slots=True)
class Places:
    """Where a batch teaches heads to guess.

    Attributes:
        hidden: `[places, hidden_size]` what enters the backbone's `lm_head`.
        path: `[places, heads]` the tokens behind each place.
        labels: `[heads, places]` what each head is to guess, or `IGNORE_INDEX`.
        sources: `[heads, places, hidden_size]` what enters `lm_head` where the backbone chooses the label.
    """

    hidden: Tensor
    path: Tensor
    labels: Tensor
    sources: Tensor

    @staticmethod
    def of_batch(backbone: PreTrainedModel, batch: dict[str, Any]) -> Places:
        """All places of a batch from which something is to be guessed."""
        wanted = guessed_places(batch)
        labels = torch.cat([batch["labels"][:, None], batch["head_labels"]], dim=1).transpose(0, 1)  # [1 + heads, ...]
        hidden, labels = head_inputs(backbone, batch), labels[:, wanted]
        row = torch.arange(len(wanted), device=wanted.device)[:, None].expand_as(wanted)[wanted]
        # Behind the end of a path there is no label, and whatever is looked at there does not count.
        sources = hidden[row, batch["head_places"].transpose(0, 1)[:, wanted].clamp(min=0)]
        return Places(hidden[wanted], labels[:-1].clamp(min=0).T, labels[1:], sources)

    def logits(self, heads: nn.Module, backbone: PreTrainedModel) -> Tensor:
        """Of all heads, `[heads, places, logits]`."""
        lm_head, embeddings = backbone.get_output_embeddings(), backbone.get_input_embeddings()
        logits: Tensor = heads(self.hidden, lm_head, embeddings, self.path)
        return logits


def labels_of(heads: DraftHeads, places: Places) -> Tensor:
    """Labels of all heads as places among their logits, `[heads, places]`, or `IGNORE_INDEX`."""
    known = places.labels != IGNORE_INDEX
    return heads.places_of(places.labels.clamp(min=0)).where(known, IGNORE_INDEX)


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy per label; 0 where there is none, as for a far head on short answers."""
    total = nn.functional.cross_entropy(logits.float(), labels, ignore_index=IGNORE_INDEX, reduction="sum")
    return total / (labels != IGNORE_INDEX).sum().clamp(min=1)


def distilled_loss(logits: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy per label against the backbone's probabilities `[places, logits]`; or 0."""
    known = labels != IGNORE_INDEX
    total = nn.functional.cross_entropy(logits[known].float(), teacher[known], reduction="sum")
    return total / known.sum().clamp(min=1)


class HeadsTrainer(TreeTrainer):
    """Trains heads; the backbone stands beside them, frozen, and enters no checkpoint."""

    def __init__(
        self, backbone: PreTrainedModel, heads: DraftHeads, *args: Any, decay: float, distil: bool, **kwargs: Any
    ) -> None:
        super().__init__(heads, *args, **kwargs)
        self.backbone = backbone.requires_grad_(False).eval().to(self.args.device)
        self.heads = heads
        self.decay = decay
        self.distil = distil

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        places = Places.of_batch(self.backbone, inputs)
        logits = places.logits(model, self.backbone)
        if self.distil:
            with torch.no_grad():
                teacher = self.backbone.get_output_embeddings()(places.sources)
            losses = [
                distilled_loss(head_logits, labels, self.heads.as_guessed(chosen.float().softmax(dim=-1)))
                for head_logits, labels, chosen in zip(logits, places.labels, teacher, strict=True)
            ]
        else:
            losses = [mean_loss(*each) for each in zip(logits, labels_of(self.heads, places), strict=True)]
        loss = torch.stack([self.decay ** (k + 1) * head_loss for k, head_loss in enumerate(losses)]).sum()
        return (loss, {}) if return_outputs else loss


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out figures of heads.

    Attributes:
        accuracy: per head the top-1 to top-5 accuracy behind the right tokens before its guess.
        temperatures: per head what calibrates its probabilities.
        acceptance: of `HeadsConfig`.
    """

    accuracy: list[list[float]]
    temperatures: list[float]
    acceptance: list[float]

    def record_in(self, config: HeadsConfig) -> None:
        """Write the figures where `from_pretrained` finds them."""
        config.accuracy = [[round(share, 4) for share in row] for row in self.accuracy]
        config.calibration_temperature = [round(temperature, 3) for temperature in self.temperatures]
        config.acceptance = [round(share, 4) for share in self.acceptance]


@torch.inference_mode()
def measure(backbone: PreTrainedModel, heads: DraftHeads, batches: Iterable[dict[str, Any]]) -> HeldOut:
    """Measure trained heads on held-out batches of `TreeCollator`."""
    shape = (heads.config.num_heads,)
    hits, tokens = torch.zeros(*shape, TOP), torch.zeros(shape)
    temperatures = torch.linspace(0.5, 2.0, 61)
    losses = torch.zeros(*shape, len(temperatures))
    steps: Counter[int] = Counter()
    for batch in tqdm(batches, desc="held-out accuracy"):
        places = Places.of_batch(backbone, batch)
        logits = places.logits(heads, backbone).float()
        best = logits[..., : heads.guessable].argmax(dim=-1) == labels_of(heads, places)
        steps.update(_steps(batch, best.cumprod(dim=0).sum(dim=0)))
        for k, (head_logits, head_labels) in enumerate(zip(logits, labels_of(heads, places), strict=True)):
            known = head_labels != IGNORE_INDEX
            head_logits, head_labels = head_logits[known], head_labels[known]
            hit = head_logits[:, : heads.guessable].topk(TOP).indices == head_labels[:, None]
            hits[k] += hit.sum(dim=0).cumsum(dim=0).cpu()
            tokens[k] += len(head_labels)
            losses[k] += _losses(head_logits[:CALIBRATED], head_labels[:CALIBRATED], temperatures)
    total = max(1, steps.total())
    return HeldOut(
        accuracy=(hits / tokens.clamp(min=1)[:, None]).tolist(),
        temperatures=temperatures[losses.argmin(dim=1)].tolist(),
        acceptance=[sum(n for right, n in steps.items() if right > k) / total for k in range(heads.config.num_heads)],
    )


def _steps(batch: dict[str, Any], right: Tensor) -> Iterator[int]:
    """How many guesses are right in each step of a decoder that goes along the paths of a batch.

    Args:
        batch: of `TreeCollator`.
        right: `[places]` how many guesses in a row are right at each of its `Places`.
    """
    wanted = guessed_places(batch)
    at_place = torch.full(wanted.shape, -1)
    at_place[wanted.cpu()] = right.cpu()
    for row, successors in zip(at_place.tolist(), batch["head_places"][:, 0].tolist(), strict=True):
        followed = {successors[at] for at, count in enumerate(row) if count >= 0}
        for at in (start for start, count in enumerate(row) if count >= 0 and start not in followed):
            while at != NO_SUCCESSOR and row[at] >= 0:
                yield row[at]
                for _ in range(1 + row[at]):
                    at = successors[at]


def _losses(logits: Tensor, labels: Tensor, temperatures: Tensor) -> Tensor:
    """Cross-entropy at each temperature; the least calibrates (Guo et al. 2017, arXiv 1706.04599, section 4.2)."""
    losses = [nn.functional.cross_entropy(logits / t, labels, reduction="sum") for t in temperatures.tolist()]
    return torch.stack(losses).cpu()


def train_heads(data: HeadsDataArguments, shape: HeadsArguments, args: HeadsTrainingArguments) -> Path:
    """Train heads on `data.model` and save them in `args.output_dir`; goes on from the last checkpoint."""
    backbone, tokenizer = load_backbone(data)
    try:
        ControlTokens.of_tokenizer(tokenizer)
    except ValueError as error:
        raise InputError(f"--model {data.model}: {error}") from error
    assert args.output_dir is not None
    backbone.to(device=args.device)  # type: ignore[call-arg]
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    rows = data.labelled_rows(data.data, backbone, tokenizer, Path(args.output_dir) / "own-train.jsonl")
    heads = shape.untrained(backbone, (rows[at] for at in range(len(rows))))  # type: ignore[arg-type]
    trainer = HeadsTrainer(
        backbone,
        heads,
        args,
        decay=shape.decay,
        distil=data.labels == "self",
        data_collator=TreeCollator(
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
            label_heads=shape.num_heads,
        ),
        train_dataset=rows,
        eval_dataset=data.labelled_rows(data.eval_data, backbone, tokenizer, Path(args.output_dir) / "own-eval.jsonl")
        if data.eval_data
        else None,
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint or last_checkpoint(args.output_dir))
    if data.eval_data:
        measure(backbone, heads, trainer.get_eval_dataloader()).record_in(heads.config)
        for k, row in enumerate(heads.config.accuracy, start=1):
            logger.info("head %d: top-1 to top-%d accuracy %s", k, TOP, row)
        logger.info("%.2f tokens per step with the best guesses alone", heads.config.tokens_per_step)
    heads.config.backbone = data.model
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        write_provenance(args.output_dir, trainer.state)
    return Path(args.output_dir)


def main(argv: Sequence[str]) -> None:
    """Run `medusa-apar train heads` with these arguments."""
    run(train_heads, (HeadsDataArguments, HeadsArguments, HeadsTrainingArguments), "medusa-apar train heads", argv)
