"""`medusa-apar train heads`: heads of any kind on a frozen, APAR-tuned backbone.

Source: Medusa-1 (Cai et al. 2024, arXiv 2401.10774), section 2.2.1: cross-entropy of head k weighted
0.8^k, learning rate 1e-3, cosine with warm-up. The labels follow the paragraph tree: head k's label is
the token k + 1 successors on.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from medusa_apar.heads import DraftHeads, Eagle3Heads, MedusaHeads, SequentialHeads
from medusa_apar.heads.checkpoints.loading import load_heads
from medusa_apar.tree.control_tokens import ControlTokens

from ..backbone.training import DataArguments, load_backbone
from ..claims import claim
from ..command_line import InputError, run
from ..evaluation.places import Places, backbone_logits, label_sources, labels_of
from ..rows.bad_rows import BadRowError, BadRows
from ..rows.responses import read_prompts
from ..rows.tree_data import IGNORE_INDEX, PackedRows, TreeCollator, TreeRow, next_token_labels, pack, prompt_token_ids
from ..trainer import HeadsEvaluation, TreeTrainingArguments, last_checkpoint
from .hidden_states import HIDDEN_STATES, HiddenStates
from .own_answers import kept_answers, own_answers

logger = logging.getLogger(__name__)

MOST = 100
"""Heads, or blocks in one, beyond which an argument is a typing error."""


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
            "choices": ["data", "self", "both"],
            "help": "data: the responses; self: the backbone's own answers to the prompts, and its own distribution; "
            "both: its distribution along the responses and its own answers",
        },
    )

    max_new_tokens: int = field(default=512, metadata={"help": "of the backbone's own answers"})
    own_answers: int | None = field(
        default=None, metadata={"help": "prompts that the backbone answers itself, the first ones (default: all)"}
    )
    answer_batch_size: int = field(default=32, metadata={"help": "prompts that the backbone answers together"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.own_answers is not None and self.own_answers < 1:
            raise InputError(f"--own_answers {self.own_answers} is below 1; give a positive number, or --labels data")
        if self.answer_batch_size < 1:
            raise InputError(f"--answer_batch_size {self.answer_batch_size} is below 1; give a positive number")

    def load(self, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The backbone, with weights of `dtype`, and its tokenizer, which has to have the control tokens."""
        self.check_files()
        backbone, tokenizer = load_backbone(self, self.attn_implementation, dtype)
        try:
            ControlTokens.of_tokenizer(tokenizer).record_in(backbone.config)  # for its own answers
        except ValueError as error:
            raise InputError(f"--model {self.model}: {error}") from error
        return backbone, tokenizer

    def all_rows(
        self, backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, output_dir: str
    ) -> tuple[Dataset[TreeRow], Dataset[TreeRow] | None]:
        """Rows to train on, and held-out ones if any; answers of the backbone itself are kept in `output_dir`."""
        train, held_out = (
            None if files is None else self._rows_of(files, backbone, tokenizer, kept_answers(output_dir, part))
            for part, files in (("train", self.data), ("eval", self.eval_data))
        )
        assert train is not None
        return train, held_out

    def _rows_of(
        self, files: list[str], backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, own: Path
    ) -> Dataset[TreeRow]:
        if self.labels == "data":
            return self.rows(files, tokenizer)
        bad_rows = BadRows()
        questions: dict[str, list[int]] = {}
        for row in (row for file in files for row in read_prompts(file, bad_rows)):
            try:
                prompt = prompt_token_ids(tokenizer, row)
                if len(prompt) >= self.max_length:
                    raise BadRowError(f"a prompt of {self.max_length} tokens or more")
            except BadRowError as error:
                bad_rows.add(str(error), row.place)
            else:
                questions.setdefault(json.dumps([row.question, row.tools]), prompt)
        if not questions:
            raise InputError(f"--data {' '.join(files)}: no usable question (left out: {bad_rows})")
        bad_rows.warn()
        prompts = list(questions.values())[: self.own_answers]
        answers = own_answers(
            backbone, tokenizer, prompts, own, max_new_tokens=self.max_new_tokens, batch=self.answer_batch_size
        )
        fitting = [row for row in answers if len(row) <= self.max_length]
        logger.info("%s: %d answers, %d too long", own, len(answers), len(answers) - len(fitting))
        if not fitting:
            raise InputError(f"--max_length {self.max_length} leaves none of {len(answers)} answers; give more")
        given: Any = self.rows(files, tokenizer) if self.labels == "both" else []
        return PackedRows(pack([*fitting, *(given[at] for at in range(len(given)))], self.max_length))


@dataclass
class HeadsArguments:
    """Kind and shape of the heads, or a checkpoint of heads to continue from."""

    heads: str | None = field(
        default=None,
        metadata={
            "help": "folder or hub id of heads to continue from; their kind and shape are kept (default: new heads)"
        },
    )
    kind: str = field(
        default="medusa",
        metadata={
            "choices": ["medusa", "sequential", "eagle3"],
            "help": "medusa: each head sees the hidden state alone; sequential: also the draft tokens before its own; "
            "eagle3: one decoder layer over three of the backbone's hidden states, which attends to the whole path",
        },
    )
    num_heads: int = field(default=5, metadata={"help": "tokens that are drafted ahead"})
    num_layers: int = field(default=1, metadata={"help": "residual blocks in a Medusa head; medusa-llm takes one"})
    shared_projection: bool = field(
        default=False,
        metadata={"help": "Medusa heads project with the backbone's lm_head: no matrix per head, small files"},
    )
    projection_rank: int | None = field(
        default=None, metadata={"help": "rank of the Medusa heads' own projections, for small files (default: whole)"}
    )
    intermediate_size: int | None = field(
        default=None,
        metadata={
            "help": "inner width of sequential heads (default: four times the hidden size), or of the decoder layer of "
            "eagle3 (default: the backbone's)"
        },
    )
    draft_vocab_size: int | None = field(
        default=None,
        metadata={
            "help": "draft among the commonest tokens, so many; the last of those of sequential heads stands for all "
            "others (default: among all)"
        },
    )
    decay: float = field(default=0.8, metadata={"help": "head k's loss is weighted decay^k"})

    def before_training(self, backbone: PreTrainedModel, rows: Iterable[TreeRow]) -> DraftHeads:
        """Heads loaded from `heads`, or new ones for a backbone and the rows that it is trained on."""
        if self.heads is None:
            return self._untrained(backbone, rows)
        try:
            return load_heads(self.heads, backbone)
        except (OSError, ValueError) as error:
            raise InputError(f"--heads {self.heads}: {error}") from error

    def _untrained(self, backbone: PreTrainedModel, rows: Iterable[TreeRow]) -> DraftHeads:
        """Heads of this kind and shape for a backbone and what is to be drafted."""
        if self.num_heads < 1:
            raise InputError(f"--num_heads {self.num_heads} drafts nothing; give a whole number from 1")
        for name in ("num_heads", "num_layers"):
            if not 0 <= (count := getattr(self, name)) <= MOST:
                raise InputError(f"--{name} {count} is not between 0 and {MOST}; give a number of that range")
        for name, least, kinds in (
            ("intermediate_size", 1, ("sequential", "eagle3")),
            ("draft_vocab_size", 2, ("medusa", "sequential", "eagle3")),
            ("projection_rank", 1, ("medusa",)),
        ):
            given = getattr(self, name)
            if given is not None and self.kind not in kinds:
                raise InputError(f"--{name} {given} is for --kind {' or '.join(kinds)}; leave it out")
            if given is not None and given < least:
                raise InputError(f"--{name} {given} is too small; give a whole number from {least}")
        size, drafted = self.draft_vocab_size, None
        if size is not None:
            drafted = commonest_tokens(rows, size - (self.kind == "sequential"))
        if self.kind != "medusa":
            kind = SequentialHeads if self.kind == "sequential" else Eagle3Heads
            return kind.for_backbone(
                backbone,
                num_heads=self.num_heads,
                intermediate_size=self.intermediate_size,
                draft_token_ids=drafted,
            )
        hidden_size = backbone.config.get_text_config().hidden_size
        if self.projection_rank is not None and self.projection_rank >= hidden_size:
            raise InputError(
                f"--projection_rank {self.projection_rank} saves nothing beside a hidden size of {hidden_size}; "
                "give less, or leave it out"
            )
        if self.shared_projection and self.projection_rank is not None:
            raise InputError(
                f"--projection_rank {self.projection_rank} is of own projections; leave --shared_projection out"
            )
        if self.shared_projection and size is not None:
            raise InputError(f"--draft_vocab_size {size} is of own projections; leave --shared_projection out")
        return MedusaHeads.for_backbone(
            backbone,
            num_heads=self.num_heads,
            num_layers=self.num_layers,
            shared_projection=self.shared_projection,
            projection_rank=self.projection_rank,
            draft_token_ids=drafted,
        )


@dataclass
class HeadsTrainingArguments(TreeTrainingArguments):
    """transformers' `TrainingArguments` with Medusa-1's settings as defaults."""

    output_dir: str = field(default="runs/heads", metadata={"help": "where checkpoints and the result go"})
    learning_rate: float = 1e-3
    warmup_steps: float = 0.1
    num_train_epochs: float = 2.0
    keep_hidden_states: bool = field(
        default=False,
        metadata={
            "help": "write the backbone's hidden states to `output_dir` in the first epoch, read them later, and "
            "remove them at the end"
        },
    )
    muon: bool = field(
        default=False,
        metadata={"help": "Muon for the matrices and AdamW for the rest; --optim and --adam_* change nothing then"},
    )
    label_names: list[str] | None = field(default_factory=lambda: ["head_labels"])

    @property
    def frozen_dtype(self) -> torch.dtype:
        """Of weights that are not trained: that in which `--bf16` or `--fp16` computes, for nothing adds up in them."""
        return torch.bfloat16 if self.bf16 else torch.float16 if self.fp16 else torch.float32


def commonest_tokens(rows: Iterable[TreeRow], count: int) -> Tensor:
    """The tokens that come most often where something is to be drafted, rising: `[count]`, or as many as there are."""
    counts = Counter(label for row in rows for label in next_token_labels(row) if label != IGNORE_INDEX)
    return torch.tensor(sorted(token for token, _ in counts.most_common(count)))


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy per label; 0 where there is none, as for a far head on short answers.

    Labels that no logit stands for count as none.
    """
    labels = labels.where(labels < logits.shape[-1], IGNORE_INDEX)
    total = nn.functional.cross_entropy(logits.float(), labels, ignore_index=IGNORE_INDEX, reduction="sum")
    return total / (labels != IGNORE_INDEX).sum().clamp(min=1)


def distilled_loss(logits: Tensor, labels: Tensor, teacher: Tensor, sources: Tensor) -> Tensor:
    """Cross-entropy per label against the backbone's probabilities, in nats; 0 where there is no label at all.

    Args:
        logits: `[places, logits]`, of one head.
        labels: `[places]` int64; `IGNORE_INDEX` where there is none.
        teacher: `[positions, logits]`, the backbone's probabilities all over a batch.
        sources: `[places]` int64, at which of these positions the labels are chosen.
    """
    logits = logits.float()
    known = labels != IGNORE_INDEX
    losses = logits.logsumexp(dim=-1) - (teacher[sources] * logits).sum(dim=-1)
    return losses.where(known, 0).sum() / known.sum().clamp(min=1)


def decayed(losses: Sequence[Tensor], decay: float) -> Tensor:
    """Sum of the heads' losses, that of head k, from 1, weighted `decay^k`."""
    return torch.stack([decay ** (k + 1) * loss for k, loss in enumerate(losses)]).sum()


class HeadsTrainer(HeadsEvaluation):
    """Trains heads; the backbone stands beside them, frozen, and enters no checkpoint."""

    def __init__(
        self,
        backbone: PreTrainedModel,
        heads: DraftHeads,
        *args: Any,
        hidden_states: HiddenStates,
        decay: float,
        distil: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(heads, *args, **kwargs)
        self.backbone = backbone.requires_grad_(False).eval().to(self.args.device)
        self.hidden_states = hidden_states
        self.heads = heads
        self.judged = self.backbone, heads
        self.decay = decay
        self.distil = distil

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        hidden = self.hidden_states.of_batch(inputs)
        places = Places.of_batch(hidden, inputs, self.heads.auxiliary_layers)
        logits = places.logits(model, self.backbone)
        if self.distil:
            with torch.no_grad():
                last = hidden[..., -self.heads.config.hidden_size :].flatten(0, 1)
                chosen = backbone_logits(self.backbone, last).float().softmax(dim=-1)
                teacher = self.heads.as_drafted(chosen)
            losses = [
                distilled_loss(head_logits, labels, teacher, sources)
                for head_logits, labels, sources in zip(logits, places.labels, label_sources(inputs), strict=True)
            ]
        else:
            losses = [mean_loss(*each) for each in zip(logits, labels_of(self.heads, places), strict=True)]
        loss = decayed(losses, self.decay)
        return (loss, {}) if return_outputs else loss


def train_heads(data: HeadsDataArguments, shape: HeadsArguments, args: HeadsTrainingArguments) -> Path:
    """Train heads on `data.model` and save them in `args.output_dir`; goes on from the last checkpoint."""
    args.check_whole("train heads")
    backbone, tokenizer = data.load(args.frozen_dtype)
    assert args.output_dir is not None
    backbone.to(device=args.device)  # type: ignore[call-arg]
    claim(args, backbone, data.data, data, shape)
    with args.main_process_first(local=args.save_on_each_node):
        rows, held_out = data.all_rows(backbone, tokenizer, args.output_dir)
    kept = Path(args.output_dir) / HIDDEN_STATES
    heads = shape.before_training(backbone, (rows[at] for at in range(len(rows))))  # type: ignore[arg-type]
    trainer = HeadsTrainer(
        backbone,
        heads.float(),  # type: ignore[no-untyped-call]
        args,
        hidden_states=HiddenStates(backbone, kept if args.keep_hidden_states else None, heads.auxiliary_layers),
        decay=shape.decay,
        distil=data.labels != "data",
        data_collator=TreeCollator.of(tokenizer, label_heads=heads.config.num_heads),
        train_dataset=rows,
        eval_dataset=held_out,
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint or last_checkpoint(args.output_dir))
    if held_out is not None:
        trainer.measured().record_in(heads.config)
    heads.config.backbone = data.model
    trainer.finish()
    if args.process_index == 0:
        shutil.rmtree(kept, ignore_errors=True)
    return Path(args.output_dir)


def main(argv: Sequence[str]) -> None:
    """Run `medusa-apar train heads` with these arguments."""
    run(train_heads, (HeadsDataArguments, HeadsArguments, HeadsTrainingArguments), "medusa-apar train heads", argv)
