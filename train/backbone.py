"""`medusa-apar train backbone`: teach a causal LM to fork, on tree-packed rows.

Source: APAR (Liu et al. 2024, arXiv 2401.06761), section 4.1; its settings are the defaults.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch.optim import Optimizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME

from medusa_apar.control_tokens import CHILD, FORK, ControlTokens

from .command import InputError, run
from .optimizer import MuonAdamW, muon_parameter_groups
from .provenance import write_provenance
from .responses import BadRows, read_responses
from .tree_data import TreeCollator, TreeDataset

logger = logging.getLogger(__name__)


@dataclass
class DataArguments:
    """What to train, and on what."""

    model: str = field(metadata={"help": "folder or hub id of the backbone"})
    data: list[str] = field(metadata={"help": "JSON lines of {prompt, response}; .xz and .gz are read as they are"})
    eval_data: list[str] | None = field(default=None, metadata={"help": "held-out rows in the same format"})
    max_length: int = field(default=2048, metadata={"help": "tokens in a tree-packed row"})
    structured_share: float = field(
        default=0.5, metadata={"help": "share of responses with a paragraph tree; the rest teach not to fork"}
    )


@dataclass
class BackboneTrainingArguments(TrainingArguments):
    """transformers' `TrainingArguments` with APAR's settings as defaults."""

    output_dir: str = field(default="runs/backbone", metadata={"help": "where checkpoints and the result go"})
    learning_rate: float = 2e-5
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 0.03
    max_steps: int = 2000
    per_device_train_batch_size: int = 4
    gradient_accumulation_steps: int = 32
    prediction_loss_only: bool = True
    remove_unused_columns: bool = False
    report_to: str = "none"
    muon: bool = field(default=False, metadata={"help": "Muon for the matrices and AdamW for the rest"})


class TreeTrainer(Trainer):
    """A `Trainer` over tree-packed rows that knows `--muon`."""

    def create_optimizer(self, model: torch.nn.Module | None = None) -> Optimizer:
        if self.optimizer is None and getattr(self.args, "muon", False):
            assert self.model is not None
            self.optimizer = MuonAdamW(
                muon_parameter_groups(self.model), lr=self.args.learning_rate, weight_decay=self.args.weight_decay
            )
        return super().create_optimizer(model) if self.optimizer is None else self.optimizer


def add_control_tokens(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> ControlTokens:
    """Give tokenizer and model `[Fork]` and `[Child]` where they are missing, and record the ids in the config.

    New embeddings start at the mean of the old ones, also where the model has spare rows for them.
    """
    old_size = len(tokenizer)
    try:
        control = ControlTokens.of_tokenizer(tokenizer)
    except ValueError:
        tokenizer.add_special_tokens({"extra_special_tokens": [FORK, CHILD]}, replace_extra_special_tokens=False)
        control = ControlTokens.of_tokenizer(tokenizer)
    if len(tokenizer) > model.config.get_text_config().vocab_size:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        for embeddings in {model.get_input_embeddings(), model.get_output_embeddings()}:
            embeddings.weight[old_size : len(tokenizer)] = embeddings.weight[:old_size].mean(dim=0)
    control.record_in(model.config)
    return control


def load_backbone(data: DataArguments) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the model that `data` names, in float32, and its tokenizer.

    Raises:
        InputError: if files are missing, or the model cannot be trained on such rows.
    """
    for name, files in (("data", data.data), ("eval_data", data.eval_data or [])):
        for file in files:
            if not Path(file).is_file():
                raise InputError(f"--{name} {file}: no such file; give JSON lines of {{prompt, response}}")
    folder = Path(data.model)
    is_path = data.model.startswith(".") or len(folder.parts) > 2 or (len(folder.parts) == 2 and folder.parent.is_dir())
    if is_path and not folder.is_dir():
        raise InputError(
            f"--model {data.model}: no such folder; give one with a causal LM and its tokenizer, or a hub id"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(data.model)
        model = AutoModelForCausalLM.from_pretrained(data.model, dtype=torch.float32, attn_implementation="sdpa")
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"--model {data.model}: give a folder or hub id with a causal LM and its tokenizer ({error})"
        ) from error
    for name, value in (("chat template", tokenizer.chat_template), ("EOS token", tokenizer.eos_token_id)):
        if value is None:
            raise InputError(f"--model {data.model}: its tokenizer has no {name}; set one and save the tokenizer again")
    context = getattr(model.config, "max_position_embeddings", data.max_length)
    if data.max_length > context:
        raise InputError(f"--max_length {data.max_length}: the model's context has {context} tokens; give at most that")
    return model, tokenizer


def load_dataset(
    files: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, structured_share: float | None
) -> TreeDataset:
    """Read response files into tree-packed rows and log what came of them."""
    bad_rows = BadRows()
    responses = (response for file in files for response in read_responses(file, bad_rows))
    dataset = TreeDataset(
        responses, tokenizer, max_length=max_length, structured_share=structured_share, bad_rows=bad_rows
    )
    logger.info(
        "%s: %d structured and %d unstructured responses in %d rows of up to %d tokens",
        ", ".join(files), dataset.structured, dataset.unstructured, len(dataset), max_length,
    )  # fmt: skip
    return dataset


def last_checkpoint(output_dir: str | None) -> str | None:
    """The checkpoint from which an interrupted run goes on: the last one that was written to its end."""
    states = Path(output_dir or ".").glob(f"checkpoint-*/{TRAINER_STATE_NAME}")
    checkpoints = [state.parent for state in states if state.parent.name.removeprefix("checkpoint-").isdigit()]
    last = max(checkpoints, key=lambda folder: int(folder.name.removeprefix("checkpoint-")), default=None)
    return None if last is None else str(last)


def train_backbone(data: DataArguments, args: BackboneTrainingArguments) -> Path:
    """Train a backbone and save it with its tokenizer in `args.output_dir`; goes on from the last checkpoint."""
    model, tokenizer = load_backbone(data)
    add_control_tokens(tokenizer, model)
    assert args.output_dir is not None
    trainer = TreeTrainer(
        model,
        args,
        data_collator=TreeCollator(
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
            length=data.max_length if args.torch_compile else None,
        ),
        train_dataset=load_dataset(data.data, tokenizer, data.max_length, data.structured_share),
        eval_dataset=load_dataset(data.eval_data, tokenizer, data.max_length, None) if data.eval_data else None,
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint or last_checkpoint(args.output_dir))
    trainer.save_model()
    trainer.save_state()
    if data.eval_data:
        trainer.save_metrics("eval", trainer.evaluate())
    write_provenance(args.output_dir, trainer.state)
    return Path(args.output_dir)


def main(argv: Sequence[str]) -> None:
    """Run `medusa-apar train backbone` with these arguments."""
    run(train_backbone, (DataArguments, BackboneTrainingArguments), "medusa-apar train backbone", argv)
