"""`medusa-apar train backbone`: teach a causal LM to fork, on tree-packed rows.

Source: APAR (Liu et al. 2024, arXiv 2401.06761), section 4.1; its settings are the defaults.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from medusa_apar.adapter import is_adapter, save_adapted_config
from medusa_apar.checkpoint import load_backbone as load_pretrained
from medusa_apar.runner.model_runner import context_length
from medusa_apar.runner.supported import check_architecture, check_attention
from medusa_apar.tree.control_tokens import ControlTokens

from ..claims import claim
from ..command_line import InputError, run
from ..evaluation.fork_decisions import BIASES
from ..rows.responses import BadRows, Response, read_responses
from ..rows.row_arguments import RowArguments, add_control_tokens, check_exist
from ..rows.shards import is_shards, settings_of
from ..rows.tree_data import TreeCollator, TreeDataset
from ..structure import Rules, extract
from ..trainer import FLAT, STRUCTURED, UNSTRUCTURED, BackboneTrainer, TreeTrainingArguments, last_checkpoint
from ..tree_attention import FLEX, attend_along_paths
from .fork_weighted_loss import ForkWeightedLoss

logger = logging.getLogger(__name__)

ADAPTER = "adapter"
"""Folder of the LoRA weights beside the merged model."""


@dataclass(kw_only=True)
class DataArguments(RowArguments):
    """What to train, and on what."""

    data: list[str] = field(
        metadata={"help": "conversations as JSON lines, a JSON array or a saved dataset; or what `train data` has made"}
    )
    eval_data: list[str] | None = field(default=None, metadata={"help": "held-out conversations"})
    structured_share: float | None = field(
        default=0.5, metadata={"help": "share of responses with a paragraph tree; the rest teach not to fork"}
    )

    attn_implementation: str | None = field(
        default=None,
        metadata={
            "choices": ["sdpa", "eager", FLEX],
            "help": "how the backbone attends (default: as transformers chooses); flex_attention trains on GPUs alone",
        },
    )

    def check_files(self) -> None:
        """Raise an InputError for a file that is not there."""
        check_exist("--data", self.data)
        check_exist("--eval_data", self.eval_data or [])

    def check_no_adapter(self) -> None:
        """Raise an InputError where the model is an adapter itself, on which no other one can be based."""
        if Path(self.model).is_dir() and is_adapter(self.model):
            raise InputError(
                f"--model {self.model}: is an adapter; train on its base, or on the merged model, which "
                "MedusaAparModel.from_pretrained(...).save_pretrained(...) makes"
            )

    def check_device(self, device: torch.device) -> None:
        """Raise an InputError for a device on which a backbone cannot be trained with this attention."""
        if self.attn_implementation == FLEX and device.type == "cpu":
            raise InputError(f"--attn_implementation {FLEX} does not train on the CPU; leave it out, or train on a GPU")

    @property
    def depth(self) -> int:
        """Of the deepest threads in the training rows."""
        prepared = next((settings_of(Path(file)) for file in self.data if is_shards(Path(file))), None)
        return self.max_depth if prepared is None else int(prepared["max_depth"])


@dataclass(kw_only=True)
class LoraArguments:
    """Training few weights in place of all; the output folder holds the merged model, and the adapter beside it."""

    lora_rank: int | None = field(
        default=None, metadata={"help": "rank of LoRA's matrices (default: train all weights)"}
    )
    lora_alpha: float | None = field(default=None, metadata={"help": "scale of LoRA (default: twice the rank)"})
    lora_dropout: float = field(default=0.0, metadata={"help": "dropout of LoRA's inputs"})
    lora_targets: list[str] = field(
        default_factory=lambda: ["all-linear"], metadata={"help": "names of the modules that LoRA adapts"}
    )

    def wrap(self, model: PreTrainedModel, control: ControlTokens) -> PreTrainedModel | PeftModel:
        """The model with LoRA's matrices, and with embeddings of the control tokens that can learn; or as it is."""
        if self.lora_rank is None:
            return model
        if self.lora_rank < 1:
            raise InputError(f"--lora_rank {self.lora_rank} is below 1; give a positive number, or leave it out")
        if self.lora_rank > (most := model.config.get_text_config().hidden_size):
            raise InputError(f"--lora_rank {self.lora_rank} is above the hidden size of {most}; give less")
        targets = self.lora_targets[0] if self.lora_targets == ["all-linear"] else self.lora_targets
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=self.lora_rank,
            lora_alpha=self.lora_alpha or 2 * self.lora_rank,  # type: ignore[arg-type]
            lora_dropout=self.lora_dropout,
            target_modules=targets,
            trainable_token_indices={
                name: sorted((control.fork_token_id, control.child_token_id))
                for name in _names_of(model, model.get_input_embeddings(), model.get_output_embeddings())
            },
        )
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise InputError(f"--lora_targets {' '.join(self.lora_targets)}: {error}") from error


@dataclass
class BackboneTrainingArguments(TreeTrainingArguments):
    """transformers' `TrainingArguments` with APAR's settings as defaults."""

    output_dir: str = field(default="runs/backbone", metadata={"help": "where checkpoints and the result go"})
    learning_rate: float = 2e-5
    warmup_steps: float = 0.03
    max_steps: int = 2000
    per_device_train_batch_size: int = 4
    gradient_accumulation_steps: int = 32
    metric_for_best_model: str = "structured_loss"
    fork_weight: float = field(
        default=1.0, metadata={"help": "weight of [Fork] in the training loss: above 1 the backbone forks more readily"}
    )
    fork_recall: float = field(
        default=0.9,
        metadata={
            "help": "share of first forks in --eval_data that the result is to choose; its config records the bias of "
            f"[Fork] that this takes, from 0 to {BIASES[-1]:g}"
        },
    )
    muon: bool = field(
        default=False,
        metadata={"help": "Muon for the matrices and AdamW for the rest; --optim and --adam_* change nothing then"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.fork_weight > 0:
            raise ValueError(f"--fork_weight {self.fork_weight:g} is not above 0; give a positive number")
        if not 0 <= self.fork_recall <= 1:
            raise ValueError(f"--fork_recall {self.fork_recall:g} is no share; give a number from 0 to 1")

    def choose_best_by(self, held_out: Mapping[str, object]) -> None:
        """Keep the best checkpoint by what there is where no held-out response has the structure to go by."""
        if self.metric_for_best_model == f"{STRUCTURED}_loss" and STRUCTURED not in held_out:
            self.metric_for_best_model = f"{next(iter(held_out))}_loss"
            logger.warning(
                "--eval_data: no response forks; the best checkpoint is that of %s", self.metric_for_best_model
            )


def prepare_for_forks(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> ControlTokens:
    """Give tokenizer and model `[Fork]` and `[Child]` where they are missing, and record the ids in the config.

    New embeddings start at the mean of the old ones, also where the model has spare rows for them.
    """
    old_size = len(tokenizer)
    control = add_control_tokens(tokenizer)
    if len(tokenizer) > model.config.get_text_config().vocab_size:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    weights = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    with torch.no_grad(), _whole(weights):
        for weight in weights:
            weight[old_size : len(tokenizer)] = weight[:old_size].mean(dim=0)
    control.record_in(model.config)
    return control


@contextmanager
def _whole(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """While open, parameters that ZeRO-3 spreads over processes are whole; what process 0 writes holds for all."""
    if not is_deepspeed_zero3_enabled():
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=0):
        yield


def load_backbone(
    arguments: RowArguments, attn_implementation: str | None = None, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the model that the arguments name, with weights of `dtype`, and its tokenizer.

    Raises:
        InputError: if the model is missing, cannot be trained on such rows, or could not be decoded in threads.
    """
    tokenizer = arguments.tokenizer()
    try:
        model = load_pretrained(arguments.model, dtype=dtype, attn_implementation=attn_implementation)
    except (OSError, ValueError) as error:
        raise InputError(f"--model {arguments.model}: {error}") from error
    try:
        check_architecture(model)
        if attn_implementation != FLEX:  # which trains, and does not decode
            check_attention(model)
    except ValueError as error:
        raise InputError(f"--model {arguments.model}: the result could not be decoded: {error}") from error
    context = context_length(model.config)
    if arguments.max_length > context:
        raise InputError(
            f"--max_length {arguments.max_length}: the model's context has {context} tokens; give at most that"
        )
    attend_along_paths(model)
    return model, tokenizer


def held_out_rows(
    files: Sequence[str], arguments: RowArguments, tokenizer: PreTrainedTokenizerBase
) -> dict[str, TreeDataset]:
    """Held-out rows of conversations, as far as there are any.

    Returns:
        `structured` and `unstructured` responses, and the structured ones once more, `flat`: as text without forks.

    Raises:
        InputError: there are none.
    """
    if any(is_shards(Path(file)) for file in files):
        raise InputError(f"--eval_data {' '.join(files)}: rows are compared with plain text; give the conversations")
    bad_rows = BadRows()
    parts: dict[bool, list[Response]] = {True: [], False: []}
    for file in files:
        for response in read_responses(file, bad_rows):
            parts[extract(response.response, arguments.structure) is not None].append(response)
    found = {
        name: TreeDataset(responses, tokenizer, max_length=arguments.max_length, rules=rules)
        for name, responses, rules in (
            (STRUCTURED, parts[True], arguments.structure),
            (UNSTRUCTURED, parts[False], arguments.structure),
            (FLAT, parts[True], Rules(frozenset())),
        )
    }
    bad_rows.warn()
    for rows in found.values():
        rows.bad_rows.warn()
    kept = {name: rows for name, rows in found.items() if len(rows)}
    if not kept:
        raise InputError(f"--eval_data {' '.join(files)}: leaves nothing ({found[STRUCTURED].bad_rows}; {bad_rows})")
    return kept


def train_backbone(data: DataArguments, lora: LoraArguments, args: BackboneTrainingArguments) -> Path:
    """Train a backbone and save it with its tokenizer in `args.output_dir`; goes on from the last checkpoint."""
    data.check_files()
    data.check_device(args.device)
    if lora.lora_rank is not None:
        args.check_whole(f"--lora_rank {lora.lora_rank}")
        data.check_no_adapter()
    model, tokenizer = load_backbone(data, data.attn_implementation)
    assert args.output_dir is not None
    folder = Path(args.output_dir)
    claim(args, model, data.data, data, lora)
    control = prepare_for_forks(tokenizer, model)
    model.config.thread_depth, model.config.fork_bias = data.depth, 0.0
    held_out = held_out_rows(data.eval_data, data, tokenizer) if data.eval_data else None
    if held_out is not None:
        args.choose_best_by(held_out)
    trainer = BackboneTrainer(
        lora.wrap(model, control),
        args,
        data_collator=TreeCollator.of(tokenizer, length=data.max_length if args.torch_compile else None),
        train_dataset=data.rows(data.data, tokenizer),
        eval_dataset=held_out,
        processing_class=tokenizer,
        compute_loss_func=None if args.fork_weight == 1 else ForkWeightedLoss(control.fork_token_id, args.fork_weight),
        control_tokens=control,
        eos_token_id=tokenizer.eos_token_id,
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint or last_checkpoint(args.output_dir))
    if data.eval_data:
        trainer.save_metrics("eval", trainer.evaluate())
        model.config.fork_bias = trainer.decisions.fork_bias(args.fork_recall)
        logger.info("fork_bias %g, for --fork_recall %g", model.config.fork_bias, args.fork_recall)
    if lora.lora_rank is not None:
        adapted: Any = trainer.accelerator.unwrap_model(trainer.model)
        if trainer.is_world_process_zero():
            adapted.active_peft_config.base_model_name_or_path = data.model  # and not the folder of a package
            adapted.save_pretrained(folder / ADAPTER, save_embedding_layers=False)
            tokenizer.save_pretrained(folder / ADAPTER)
            save_adapted_config(model.config, folder / ADAPTER)
        trainer.model = adapted.merge_and_unload()
    trainer.finish()
    return folder


def _names_of(model: PreTrainedModel, *modules: torch.nn.Module) -> list[str]:
    """Last parts of the names of some modules of a model, each once."""
    return sorted({name.rpartition(".")[2] for name, module in model.named_modules() if module in modules})


def main(argv: Sequence[str]) -> None:
    """Run `medusa-apar train backbone` with these arguments."""
    kinds = (DataArguments, LoraArguments, BackboneTrainingArguments)
    run(train_backbone, kinds, "medusa-apar train backbone", argv)
