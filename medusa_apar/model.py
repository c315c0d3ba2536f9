"""`MedusaAparModel`: a causal LM with Medusa heads, and its drop-in `generate`."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import numpy as np
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.generation.streamers import BaseStreamer

from .backbone import Backbone
from .budget import CostCurve, NodeBudget
from .control_tokens import ControlTokens
from .decoder import Decoder, Request
from .drafting import Drafter
from .heads import MedusaHeads
from .heads.checkpoints import load_heads
from .output import DecodingStats, MedusaAparOutput
from .packed_products import PackedProducts
from .paragraph_tree import ParagraphTree, Thread
from .streaming import ReadingOrderStream

HEADS_SUBFOLDERS = ("heads", "medusa")
"""Where a checkpoint folder keeps its heads: ours, and that of THUDM's published APAR checkpoints."""

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "do_sample": (False, None),
    "num_beams": (1, None),
    "num_return_sequences": (1, None),
    "repetition_penalty": (1.0, None),
    "no_repeat_ngram_size": (0, None),
    "encoder_repetition_penalty": (1.0, None),
    "bad_words_ids": (None,),
    "sequence_bias": (None,),
    "suppress_tokens": (None,),
    "begin_suppress_tokens": (None,),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "min_length": (0, None),
    "min_new_tokens": (0, None),
    "stop_strings": (None,),
    "max_time": (None,),
    "guidance_scale": (1.0, None),
    "penalty_alpha": (None,),
    "prompt_lookup_num_tokens": (None,),
    "output_scores": (False, None),
    "output_logits": (False, None),
    "output_attentions": (False, None),
    "output_hidden_states": (False, None),
}
"""`GenerationConfig` fields that decoding does not honour yet, with the values that ask for nothing."""


class MedusaAparModel:
    """A causal LM that decodes with Medusa heads and APAR threads, under one attention mask per step.

    Args:
        backbone: a supported causal LM, APAR-tuned or plain.
        heads: Medusa heads that were trained on it; None decodes without.
        fork_token_id, child_token_id: the control tokens, where the backbone's config does not record them.

    Raises:
        ValueError: if the backbone is not supported, or the heads are of another size.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        heads: MedusaHeads | None = None,
        *,
        fork_token_id: int | None = None,
        child_token_id: int | None = None,
    ) -> None:
        if (fork_token_id is None) != (child_token_id is None):
            raise ValueError(
                f"fork_token_id={fork_token_id} and child_token_id={child_token_id}: give both of them or neither"
            )
        if heads is not None:
            heads.check_fits(backbone)
            heads.eval()  # type: ignore[no-untyped-call]
        backbone.eval()
        self._backbone = Backbone(backbone)
        self.heads = heads
        self.control = (
            ControlTokens.of_config(backbone.config)
            if fork_token_id is None or child_token_id is None
            else ControlTokens(fork_token_id, child_token_id)
        )
        self.generation_config: GenerationConfig = copy.deepcopy(backbone.generation_config)
        self._packed_products = PackedProducts([backbone] if heads is None else [backbone, heads])
        self._cost: CostCurve | None = None

    @property
    def backbone(self) -> PreTrainedModel:
        """The plain causal LM."""
        return self._backbone.model

    @property
    def config(self) -> PretrainedConfig:
        """The backbone's config."""
        return self.backbone.config

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        return self.backbone.device

    @property
    def dtype(self) -> torch.dtype:
        """The backbone's number format."""
        return self.backbone.dtype

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        heads: str | Path | MedusaHeads | None = None,
        **kwargs: Any,
    ) -> MedusaAparModel:
        """Load backbone and heads.

        Args:
            pretrained_model_name_or_path: a folder or a hub id.
            heads: Medusa heads, or the folder or hub id of some. By default those in the checkpoint's
                subfolder `heads` or `medusa`; where there are none, the model is plain APAR.
            **kwargs: for `AutoModelForCausalLM.from_pretrained`, e.g. `dtype`, `device_map`, `revision`.

        Raises:
            OSError: if a file is missing, truncated or corrupt.
            ValueError: as the constructor.
        """
        source = str(pretrained_model_name_or_path)
        try:
            backbone = AutoModelForCausalLM.from_pretrained(source, **kwargs)
        except SafetensorError as error:
            raise OSError(f"the weights in {source!r} are truncated or corrupt ({error}); fetch them again") from error
        if not isinstance(heads, MedusaHeads):
            found = _heads_folder(source, kwargs.get("revision")) if heads is None else heads
            heads = None if found is None else load_heads(found, backbone)
        control = ControlTokens.of_config(backbone.config) or _control_of_tokenizer(source, kwargs.get("revision"))
        return cls(
            backbone,
            heads,
            fork_token_id=None if control is None else control.fork_token_id,
            child_token_id=None if control is None else control.child_token_id,
        )

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Save the backbone, and the heads in its subfolder `heads`; `from_pretrained` loads both."""
        if self.control is not None:
            self.control.record_in(self.config)
        self.backbone.save_pretrained(save_directory, **kwargs)
        if self.heads is not None:
            self.heads.save_pretrained(Path(save_directory) / HEADS_SUBFOLDERS[0], **kwargs)

    def to(self, *args: Any, **kwargs: Any) -> MedusaAparModel:
        """Move or convert backbone and heads, as `torch.nn.Module.to` does."""
        backbone: nn.Module = self.backbone
        backbone.to(*args, **kwargs)
        if self.heads is not None:
            self.heads.to(*args, **kwargs)
        self._cost = None
        return self

    @torch.inference_mode()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        attention_mask: Tensor | None = None,
        streamer: BaseStreamer | None = None,
        medusa: bool | None = None,
        apar: bool | None = None,
        max_threads: int = 8,
        max_depth: int = 2,
        nodes_per_step: int | None = None,
        **kwargs: Any,
    ) -> torch.LongTensor | MedusaAparOutput:
        """Generate greedily, token for token what the backbone would write on each thread's own context.

        Args:
            inputs: `[batch, length]` int64 prompts; also as `input_ids=`.
            generation_config: defaults to the model's own.
            attention_mask: `[batch, length]`; zeros mark padding.
            streamer: receives the answer in reading order while threads still run; for a batch of one.
            medusa: let the heads guess; by default where there are heads.
            apar: let the model fork; by default where the control tokens are known.
            max_threads: threads of one row in a step; more of them wait. Does not change the answer.
            max_depth: `[Fork]` is forbidden in threads of this depth; the root thread has depth 1.
            nodes_per_step: candidate nodes in a step; by default as many as pay, from a measured cost curve.
            **kwargs: override fields of the generation config. `max_new_tokens` counts visible tokens in
                reading order, control tokens not among them.

        Returns:
            `[batch, length]` int64, or a `MedusaAparOutput` with `return_dict_in_generate=True`.

        Raises:
            ValueError: for arguments that are wrong or not supported; names argument, value and remedy.
        """
        if inputs is None:
            inputs = kwargs.pop("input_ids", None)
        config = self._generation_config(generation_config, kwargs)
        medusa = self.heads is not None if medusa is None else medusa
        apar = self.control is not None if apar is None else apar
        self._check_modes(medusa, apar)
        _check_at_least_one(max_threads=max_threads, max_depth=max_depth)
        eos_token_ids = _as_list(config.eos_token_id)
        prompts = self._prompts(inputs, attention_mask, config, eos_token_ids)
        assert inputs is not None
        max_new_tokens = _max_new_tokens(config, inputs.shape[1])
        if streamer is not None and len(prompts) > 1:
            raise ValueError(f"streamer takes one row, but the batch has {len(prompts)}; generate row by row")

        requests = []
        for prompt in prompts:
            tree = ParagraphTree(
                [Thread(list(prompt), len(prompt), len(prompt))],
                self.control.fork_token_id if self.control else None,
                self.control.child_token_id if self.control else None,
                max_depth,
            )
            stream = None if streamer is None else ReadingOrderStream(streamer, prompt, max_new_tokens)
            requests.append(Request(prompt, max_new_tokens, tree, stream=stream))
        with self._backbone.watched(), self._packed_products.active():
            drafter = Drafter(self.heads, self._backbone.lm_head) if medusa and self.heads is not None else None
            decoder = Decoder(
                self._backbone,
                drafter,
                self.control,
                fork=apar,
                budget=NodeBudget.unlimited() if drafter is None else self._budget(drafter, nodes_per_step),
                eos_token_ids=eos_token_ids,
                max_threads=max_threads,
                max_depth=max_depth,
            )
            start = perf_counter()
            try:
                decoder.decode(requests)
            finally:
                for request in requests:
                    if request.stream is not None:
                        request.stream.end()

        trees = tuple(request.tree.trimmed(max_new_tokens) for request in requests)
        sequences = _sequences(inputs, trees, config, eos_token_ids)
        if not config.return_dict_in_generate:
            return sequences
        stats = _final_stats(decoder.stats, requests, trees, perf_counter() - start)
        return MedusaAparOutput(sequences=sequences, trees=trees, stats=stats)

    def _generation_config(self, given: GenerationConfig | None, overrides: dict[str, Any]) -> GenerationConfig:
        config = copy.deepcopy(given or self.generation_config)
        if overrides.get("max_new_tokens") is not None:
            _check_at_least_one(max_new_tokens=overrides["max_new_tokens"])
        unknown = config.update(**overrides)
        if unknown:
            raise ValueError(f"generate does not take {', '.join(f'{k}={v!r:.60}' for k, v in unknown.items())}")
        for name, neutral in _NEUTRAL.items():
            value = getattr(config, name, None)
            if value not in neutral:
                raise ValueError(f"{name}={value!r} is not supported yet; pass {name}={neutral[0]!r}")
        return config

    def _check_modes(self, medusa: bool, apar: bool) -> None:
        if medusa and self.heads is None:
            raise ValueError("medusa=True, but the model has no heads; pass heads=..., or medusa=False")
        if apar and self.control is None:
            raise ValueError(
                "apar=True, but no control tokens are known; use an APAR-tuned backbone, or pass "
                "fork_token_id= and child_token_id= to MedusaAparModel, or apar=False"
            )

    def _prompts(
        self,
        inputs: Tensor | None,
        attention_mask: Tensor | None,
        config: GenerationConfig,
        eos_token_ids: list[int],
    ) -> list[list[int]]:
        """Rows without their padding."""
        if inputs is None:
            raise ValueError("input_ids=None; pass the tokenizer's output: generate(**tokenizer(text, ...))")
        if inputs.ndim != 2 or inputs.is_floating_point():
            raise ValueError(
                f"input_ids has shape {tuple(inputs.shape)} and {inputs.dtype}; it is [batch, length] int64"
            )
        if attention_mask is None:
            attention_mask = torch.ones_like(inputs)
            if config.pad_token_id is not None and config.pad_token_id not in eos_token_ids:
                attention_mask = (inputs != config.pad_token_id).long()
        if attention_mask.shape != inputs.shape:
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}, input_ids {tuple(inputs.shape)}; "
                "both are [batch, length]"
            )
        prompts = [row[mask.bool()].tolist() for row, mask in zip(inputs, attention_mask, strict=True)]
        vocab_size = self._backbone.vocab_size
        for number, prompt in enumerate(prompts):
            if not prompt:
                raise ValueError(f"the prompt in row {number} of input_ids is empty; give it at least one token")
            if len(prompt) >= self._backbone.context_length:
                raise ValueError(
                    f"the prompt in row {number} of input_ids has {len(prompt)} tokens, but the backbone's context "
                    f"holds {self._backbone.context_length}; shorten it"
                )
            if not 0 <= min(prompt) <= max(prompt) < vocab_size:
                raise ValueError(
                    f"row {number} of input_ids holds the token {max(prompt) if min(prompt) >= 0 else min(prompt)}, "
                    f"but the backbone's vocabulary has {vocab_size}; use the backbone's own tokenizer"
                )
        return prompts

    def _budget(self, drafter: Drafter, nodes_per_step: int | None) -> NodeBudget:
        if nodes_per_step is not None:
            return NodeBudget(nodes_per_step=nodes_per_step)
        if self._cost is None:
            self._cost = measure_cost(self._backbone, drafter)
        return NodeBudget(self._cost)


def measure_cost(backbone: Backbone, drafter: Drafter, context: int = 256, threads: int = 4) -> CostCurve:
    """Time a step by its number of nodes: the backbone behind `context` slots, and the heads of a few threads."""
    context = min(context, backbone.context_length // 2)
    pool = backbone.new_pool(1024)
    row = pool.open_row()
    pool.show(row, pool.acquire(context))

    def forward(nodes: int) -> None:
        slots = pool.acquire(nodes)
        mask = pool.mask([row] * nodes, slots, np.eye(nodes, dtype=np.bool_))
        logits, hidden = backbone.forward(pool, slots, [0] * nodes, [context] * nodes, mask)
        logits.argmax(dim=-1).tolist()
        drafter(hidden[:1].expand(threads, -1))
        pool.give_back(slots)

    return CostCurve.measure(forward)


def _heads_folder(source: str, revision: str | None) -> Path | None:
    """The folder of the heads that come with a checkpoint, if any do."""
    folder = Path(source)
    if not folder.is_dir():
        try:
            patterns = [f"{name}/*" for name in HEADS_SUBFOLDERS]
            folder = Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
        except (HfHubHTTPError, LocalEntryNotFoundError):
            return None
    return next((folder / name for name in HEADS_SUBFOLDERS if (folder / name / "config.json").is_file()), None)


def _control_of_tokenizer(source: str, revision: str | None) -> ControlTokens | None:
    try:
        return ControlTokens.of_tokenizer(AutoTokenizer.from_pretrained(source, revision=revision))
    except (OSError, ValueError):
        return None


def _as_list(token_ids: int | list[int] | None) -> list[int]:
    if token_ids is None:
        return []
    return [token_ids] if isinstance(token_ids, int) else list(token_ids)


def _check_at_least_one(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name}={value} is below 1; pass a positive number")


def _max_new_tokens(config: GenerationConfig, prompt_length: int) -> int:
    """The limit, as `generate` reads it: `max_new_tokens`, else what `max_length` leaves, else 20."""
    if config.max_new_tokens is not None:
        return int(config.max_new_tokens)
    if config.max_length is None:
        return 20
    if config.max_length <= prompt_length:
        raise ValueError(
            f"max_length={config.max_length} leaves nothing behind a prompt of {prompt_length} tokens; "
            "pass max_new_tokens instead"
        )
    return int(config.max_length) - prompt_length


def _sequences(
    inputs: Tensor, trees: Iterable[ParagraphTree], config: GenerationConfig, eos_token_ids: list[int]
) -> torch.LongTensor:
    """Prompts and answers, `[batch, length]`, padded on the right as `generate` does."""
    pad = config.pad_token_id if config.pad_token_id is not None else (eos_token_ids or [0])[0]
    answers = [torch.tensor(tree.answer_token_ids(), dtype=torch.int64) for tree in trees]
    padded = torch.nn.utils.rnn.pad_sequence(answers, batch_first=True, padding_value=pad)
    return cast(torch.LongTensor, torch.cat([inputs, padded.to(inputs.device)], dim=1))


def _final_stats(
    stats: DecodingStats, requests: list[Request], trees: tuple[ParagraphTree, ...], seconds: float
) -> DecodingStats:
    """Fill in the figures that are known at the end."""
    stats.seconds = seconds
    for request, tree in zip(requests, trees, strict=True):
        visible = tree.visible_tokens()
        stats.answer_tokens += visible
        stats.discarded_tokens += request.tree.visible_tokens() - visible
        stats.forks += len(tree.threads) - 1
        stats.ar_slots += len(request.prompt) + visible - 1
    return stats
