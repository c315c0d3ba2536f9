"""`MedusaAparModel`: a causal LM with Medusa heads, and its drop-in `generate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import replace
from functools import partial
from inspect import currentframe, unwrap
from pathlib import Path
from threading import RLock
from typing import Any, Literal, cast

import torch
from huggingface_hub import is_offline_mode
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    PretrainedConfig,
    PreTrainedModel,
    StoppingCriteriaList,
    StopStringCriteria,
)
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging
from transformers.utils.hub import PushToHubMixin

from .adapter import HUB_ARGUMENTS, PLACE_ARGUMENTS, AdapterFiles, given, is_adapter
from .checkpoint import find_control_tokens, load_backbone, local_source
from .drafters.drafter import Drafter
from .drafters.new_drafter import new_drafter
from .generation import DecodingOptions, Generation
from .heads import DraftHeads
from .heads.checkpoints.formats import HEADS_PLACES, HEADS_SUBFOLDERS, find_heads
from .heads.checkpoints.loading import load_heads
from .linears.dtype import Weights
from .linears.prepare import quantize_as_loaded, usable_weights
from .linears.quantized_linears import is_quantized
from .output import MedusaAparOutput
from .runner.compilation import Compiler
from .runner.model_runner import ModelRunner
from .runner.supported import check_supported
from .runner.twin import state_of
from .tree.control_tokens import ControlTokens, recorded_fork_bias, thread_depth

logger = logging.get_logger(__name__)

REFUSED_ARGUMENTS = {
    "assistant_model": "it is another way to decode; generate with the backbone itself",
    "negative_prompt_ids": "it is of classifier-free guidance; generate with the backbone itself",
    "custom_generate": "this class is such a method itself; generate with the backbone",
    "synced_gpus": "rows end in different steps on every process; leave it out",
    "compile_config": "call compile() of this model once",
}
"""Arguments of transformers' `generate` that this decoding does not honour, and why."""
_GENERATE = unwrap(GenerationMixin.generate).__code__


class MedusaAparModel(PushToHubMixin):
    """A causal LM that decodes with Medusa heads and APAR threads, under one attention mask per step.

    Args:
        backbone: a supported causal LM, APAR-tuned or plain.
        heads: Medusa heads that were trained on it; None decodes without.
        fork_token_id, child_token_id: the control tokens, where the backbone's config does not record them.
        weights: in which linear layers are computed: `"loaded"`, as they are; `"int8"`, on the CPU in 8-bit integers,
            and answers are those of the backbone so quantised, whatever the mode; `"auto"`, the faster of both.

    Attributes:
        backbone: the plain causal LM; decoding leaves it as it is.
        heads: the draft heads; None where there are none.
        control: the control tokens; None where the backbone has none.

    Raises:
        ValueError: if the backbone is not supported, the heads are of another size, or a control token is none of the
            backbone's vocabulary.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        heads: DraftHeads | None = None,
        *,
        fork_token_id: int | None = None,
        child_token_id: int | None = None,
        weights: str = Weights.LOADED,
    ) -> None:
        if (fork_token_id is None) != (child_token_id is None):
            raise ValueError(
                f"fork_token_id={fork_token_id} and child_token_id={child_token_id}: give both of them or neither"
            )
        if heads is not None:
            heads.check_fits(backbone)
            heads.eval()  # type: ignore[no-untyped-call]
        backbone.eval()
        check_supported(backbone)
        self.backbone = backbone
        self.heads = heads
        self.control = (
            ControlTokens.of_config(backbone.config)
            if fork_token_id is None or child_token_id is None
            else ControlTokens(fork_token_id, child_token_id, recorded_fork_bias(backbone.config))
        )
        if self.control is not None:
            self.control.check_fits(backbone.config.vocab_size)
        self.weights = Weights(weights)
        self._adapter: AdapterFiles | None = None
        self._lock = RLock()
        self._compiling: tuple[str | Callable[..., Any], dict[str, Any]] | None = None
        self._prepared: tuple[ModelRunner, Drafter | None]
        self._prepared_for: tuple[object, ...] = ()

    @property
    def config(self) -> PretrainedConfig:
        """The backbone's config."""
        return self.backbone.config

    @property
    def generation_config(self) -> GenerationConfig:
        """The backbone's defaults for `generate`."""
        config: GenerationConfig = self.backbone.generation_config
        return config

    @generation_config.setter
    def generation_config(self, config: GenerationConfig) -> None:
        self.backbone.generation_config = config

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        return self.backbone.device

    @property
    def dtype(self) -> torch.dtype:
        """The backbone's dtype."""
        return self.backbone.dtype

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        heads: str | Path | DraftHeads | Literal[False] | None = None,
        weights: str = Weights.LOADED,
        **kwargs: Any,
    ) -> MedusaAparModel:
        """Load backbone and heads. A warning says so where no heads or no control tokens are found.

        Args:
            pretrained_model_name_or_path: a folder or a hub id, of a model or of a PEFT adapter, which is merged.
            heads: Medusa heads, or the folder or hub id of some. By default those of the checkpoint: in its subfolder
                `heads` or `medusa`, or in medusa-llm's files beside the weights. False: load none.
            weights: as the constructor's. With `"int8"` the backbone itself is quantised, and its weights are freed.
            **kwargs: for `AutoModelForCausalLM.from_pretrained`, e.g. `dtype`, `device_map`, `revision`, `subfolder`,
                `gguf_file`.

        Raises:
            OSError: if a file is missing, truncated or corrupt.
            ValueError: as the constructor, if an adapter does not fit its base, and for `weights="int8"` if the
                backbone cannot be quantised.
        """
        weights = Weights(weights)
        source = str(pretrained_model_name_or_path)
        if not kwargs.get("gguf_file"):
            source = local_source(source)
        backbone = load_backbone(source, **kwargs)
        hub = given(kwargs, *HUB_ARGUMENTS)
        missing = []
        found: DraftHeads | None = None
        if isinstance(heads, DraftHeads):
            found = heads
        elif heads is not False:
            place = find_heads(source, **given(kwargs, *PLACE_ARGUMENTS), **hub) if heads is None else heads
            if place is None:
                missing.append(f"does not draft: it has none of {', '.join(HEADS_PLACES)}; name its heads by heads=")
            else:
                found = load_heads(place, backbone, **hub)
        control: ControlTokens | None = None
        try:
            control = find_control_tokens(backbone.config, source, **kwargs)
        except ValueError as error:
            missing.append(f"does not fork: {error}")
        if missing:
            offline = not Path(source).is_dir() and (hub.get("local_files_only") or is_offline_mode())
            logger.warning("%s%s %s", source, " in the cache" if offline else "", ", and ".join(missing))
        if weights is Weights.INT8:
            quantize_as_loaded(backbone)
        model = cls(
            backbone,
            found,
            fork_token_id=None if control is None else control.fork_token_id,
            child_token_id=None if control is None else control.child_token_id,
            weights=weights,
        )
        where = given(kwargs, *PLACE_ARGUMENTS, *HUB_ARGUMENTS)
        if not kwargs.get("gguf_file") and is_adapter(source, **where):
            model._adapter = AdapterFiles(source, where)
        return model

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        push_to_hub: bool = False,
        max_shard_size: int | str = "50GB",
        *,
        adapter_only: bool = False,
        repo_id: str | None = None,
        **hub: Any,
    ) -> None:
        """Save the backbone, and the heads in its subfolder `heads`; `from_pretrained` loads both.

        Args:
            save_directory: the folder; created if need be.
            is_main_process: whether this process writes, of several that call this.
            push_to_hub: then also upload both to one repository.
            max_shard_size: of a file of weights, in bytes or as `"5GB"`.
            adapter_only: save the PEFT adapter that this model was loaded from, as it was, in place of merged weights.
            repo_id: that repository; by default named after the folder.
            **hub: for `push_to_hub`, e.g. `private`, `token`, `commit_message`.

        Raises:
            ValueError: for arguments of an upload without `push_to_hub=True`, for `adapter_only=True` where the
                model was not loaded from an adapter, and for weights that were quantised as they were loaded.
            OSError: the adapter is no longer where it was.
        """
        if adapter_only and self._adapter is None:
            raise ValueError("adapter_only=True: this model was not loaded from an adapter; leave it out")
        if adapter_only and push_to_hub:
            raise ValueError("adapter_only=True: push_to_hub=True uploads merged weights; save, and upload the folder")
        if (repo_id is not None or hub) and not push_to_hub:
            names = ", ".join([*(["repo_id"] if repo_id is not None else []), *hub])
            raise ValueError(f"{names}: only for an upload; pass push_to_hub=True, or leave out what is given")
        if self._quantized and not adapter_only:
            raise ValueError("weights='int8': what was loaded so has no weights to save; load it without weights=")
        if self.control is not None:
            self.control.record_in(self.config)
        options: dict[str, Any] = {"is_main_process": is_main_process, "max_shard_size": max_shard_size}
        if self._adapter is None or not adapter_only:
            self.backbone.save_pretrained(save_directory, **options)
        elif is_main_process:
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            self._adapter.copy_to(Path(save_directory))
            self.generation_config.save_pretrained(save_directory)
        if self.heads is not None:
            self.heads.save_pretrained(Path(save_directory) / HEADS_SUBFOLDERS[0], **options)
        if push_to_hub and is_main_process:
            name = Path(save_directory).resolve().name if repo_id is None else repo_id
            self.push_to_hub(name, max_shard_size=max_shard_size, **hub)

    def to(self, *args: Any, **kwargs: Any) -> MedusaAparModel:
        """Move or convert backbone and heads, as `torch.nn.Module.to` does.

        Raises:
            ValueError: if they are to leave the CPU, and were quantised as they were loaded.
        """
        device = torch.empty(0).to(*args, **kwargs).device
        if self._quantized and device.type != "cpu":
            raise ValueError(f"weights='int8': products run on the CPU, not on {device}; load it without weights=")
        for module in self._modules:
            module.to(*args, **kwargs)
        return self

    @property
    def _quantized(self) -> bool:
        """Whether the backbone was quantised in place, and has no weights to save."""
        return any(map(is_quantized, self.backbone.modules()))

    @property
    def _modules(self) -> list[nn.Module]:
        return [self.backbone] if self.heads is None else [self.backbone, self.heads]

    @property
    def compiled(self) -> bool:
        """Whether steps run compiled."""
        return self._compiling is not None

    def compile(self, *, backend: str | Callable[..., Any] = "inductor", options: dict[str, Any] | None = None) -> None:
        """Run steps through `torch.compile` from now on; on a GPU also as CUDA graphs.

        The first call of `generate` compiles, which takes minutes; steps of all sizes share what it compiled. On the
        CPU prompts run compiled too, and compiled steps are kept in the user's cache folder for later processes. On a
        GPU the KV pool stays allocated from call to call.

        Args:
            backend: of `torch.compile`.
            options: for the backend.
        """
        self._compiling = backend, options or {}
        self._prepared_for = ()

    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        stopping_criteria: StoppingCriteriaList | None = None,
        streamer: BaseStreamer | None = None,
        **kwargs: Any,
    ) -> torch.LongTensor | MedusaAparOutput:
        """Generate as the backbone's own `generate` does, several tokens per forward pass.

        Takes the arguments of transformers' `generate` for decoder-only models, the fields of `DecodingOptions`
        (`medusa`, `ngrams`, `apar`, `max_threads`, `max_depth`, `max_slots`, `max_batch`, `nodes_per_step`,
        `medusa_choices`, `acceptance`, `posterior_threshold`, `posterior_alpha`, `seed`), and `fork_bias`, in place of
        that of `ControlTokens`. Every thread's text is what the backbone would write after that thread's own context;
        with `apar=False` and without sampling it is `backbone.generate`'s, token for token (with the control tokens,
        where the backbone has any, in `suppress_tokens`).

        Args:
            inputs: `[batch, length]` int64 prompts; also as `input_ids=`.
            generation_config: defaults to the backbone's own.
            stopping_criteria: asked about the answer in reading order; where one is met, the answer is cut.
            streamer: receives the answer in reading order while threads still run; for a batch of one.
            **kwargs: override fields of the generation config; `attention_mask`, `logits_processor`, `tokenizer`
                (for `stop_strings`) and so on. `max_new_tokens` counts visible tokens in reading order, control
                tokens not among them.

        Returns:
            `[batch, length]` int64, or a `MedusaAparOutput` with `return_dict_in_generate=True`.

        Raises:
            ValueError: for arguments that are wrong or not supported; names argument, value and remedy.
        """
        try:
            _check_arguments(kwargs)
            _check_inputs(kwargs.get("input_ids") if inputs is None else inputs, kwargs)
            generation_config, stopping = self._stop_strings(generation_config, kwargs)
            output: torch.LongTensor | MedusaAparOutput = cast(Any, self.backbone).generate(
                inputs,
                generation_config,
                stopping_criteria=StoppingCriteriaList([*(stopping_criteria or ()), *stopping]),
                streamer=streamer,
                custom_generate=partial(self.decoding_method, streamer=streamer),
                **kwargs,
            )
            return output
        finally:
            if streamer is not None:  # who reads it in another thread would wait for ever
                streamer.end()

    def decoding_method(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        streamer: BaseStreamer | None = None,
        *,
        medusa: bool | None = None,
        ngrams: bool | None = None,
        apar: bool | None = None,
        max_threads: int = 8,
        max_depth: int | None = None,
        fork_bias: float | None = None,
        max_slots: int | None = None,
        max_batch: int | None = None,
        nodes_per_step: int | None = None,
        medusa_choices: Sequence[Sequence[int]] | None = None,
        acceptance: str = "exact",
        posterior_threshold: float = 0.09,
        posterior_alpha: float = 0.3,
        seed: int | None = None,
        **model_kwargs: Any,
    ) -> torch.LongTensor | MedusaAparOutput:
        """The hook for transformers: `backbone.generate(..., custom_generate=model.decoding_method)`.

        transformers prepares the arguments. It does not hand a hook the tokenizer for `stop_strings`; `generate` of
        this class passes it. A streamer of the call is ended, also after an error.

        Raises:
            ValueError: as `generate`.
        """
        with _streamer_of_caller() if streamer is None else nullcontext(streamer) as stream:
            if model is not self.backbone:
                raise ValueError(
                    f"custom_generate belongs to another {type(self.backbone).__name__} than the "
                    f"{type(model).__name__} that was asked to generate; call generate of the backbone that is inside "
                    "this MedusaAparModel"
                )
            attention_mask = model_kwargs.get("attention_mask")
            _check_model_kwargs(input_ids, attention_mask, model_kwargs)
            options = DecodingOptions(
                medusa=medusa,
                ngrams=ngrams,
                apar=apar,
                max_threads=max_threads,
                max_depth=thread_depth(self.config) if max_depth is None else max_depth,
                max_slots=max_slots,
                max_batch=max_batch,
                nodes_per_step=nodes_per_step,
                medusa_choices=medusa_choices,
                acceptance=acceptance,
                posterior_threshold=posterior_threshold,
                posterior_alpha=posterior_alpha,
                seed=seed,
            )
            control = self.control
            if control is not None and fork_bias is not None:
                control = replace(control, fork_bias=fork_bias)
            with self.decoding() as (runner, drafter):
                generation = Generation(
                    runner, drafter, control, generation_config, logits_processor, stopping_criteria, options
                )
                return generation.run(input_ids, attention_mask, stream)

    @contextmanager
    def decoding(self) -> Iterator[tuple[ModelRunner, Drafter | None]]:
        """While open, an `Engine` can run on what comes back; other Python threads wait.

        Raises:
            ValueError: if the attention implementation was switched to one that takes no mask.
        """
        with self._lock:
            yield self._prepare()

    def _prepare(self) -> tuple[ModelRunner, Drafter | None]:
        """The model runner and the drafter for the weights as they are now."""
        state = self.weights, self.config._attn_implementation, *state_of(self._modules)
        if state != self._prepared_for:
            weights = usable_weights(self.backbone, self.weights)
            compiler = None if self._compiling is None else Compiler(self._modules, weights, *self._compiling)
            heads = self.heads
            runner = ModelRunner(
                self.backbone,
                compiler,
                weights,
                auxiliary_layers=() if heads is None else heads.auxiliary_layers,
                further_kv_layers=0 if heads is None else heads.kv_layers,
            )
            self._prepared = runner, None if self.heads is None else new_drafter(self.heads, runner, compiler)
            self._prepared_for = state
        return self._prepared

    def _stop_strings(
        self, given: GenerationConfig | None, kwargs: dict[str, Any]
    ) -> tuple[GenerationConfig | None, list[StopStringCriteria]]:
        """Make stop strings a criterion here: transformers does not pass the tokenizer on to a hook.

        Returns:
            The generation config without them, and the criterion.
        """
        tokenizer = kwargs.get("tokenizer")
        if tokenizer is None:
            return given, []
        stop_strings = own = self.generation_config.stop_strings
        if given is not None and given.stop_strings is not None:
            stop_strings, given = given.stop_strings, copy(given)
            given.stop_strings = None
        stop_strings = kwargs.get("stop_strings", stop_strings)
        if own is not None or "stop_strings" in kwargs:
            kwargs["stop_strings"] = None
        return given, [] if stop_strings is None else [StopStringCriteria(tokenizer, stop_strings)]


def _check_arguments(kwargs: dict[str, Any]) -> None:
    for name, reason in REFUSED_ARGUMENTS.items():
        if name in kwargs and kwargs[name] is not None and kwargs[name] is not False:
            raise ValueError(f"{name} is not supported: {reason}")


def _check_inputs(input_ids: Tensor | None, kwargs: dict[str, Any]) -> None:
    """Refuse what transformers would fail on without saying why."""
    if kwargs.get("inputs_embeds") is not None:
        raise ValueError("inputs_embeds is not supported: a thread's context is its token ids; pass input_ids")
    if input_ids is None:
        return
    if input_ids.ndim != 2 or input_ids.is_floating_point():
        raise ValueError(
            f"input_ids has shape {tuple(input_ids.shape)} and {input_ids.dtype}; it is [batch, length] int64"
        )
    attention_mask = kwargs.get("attention_mask")
    if attention_mask is not None and attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, input_ids {tuple(input_ids.shape)}; "
            "both are [batch, length]"
        )


def _check_model_kwargs(input_ids: Tensor, attention_mask: Tensor | None, model_kwargs: dict[str, Any]) -> None:
    """Refuse what a step over many nodes cannot honour."""
    _check_inputs(input_ids, model_kwargs)
    past = model_kwargs.get("past_key_values")
    if past is not None and past.get_seq_length() > 0:
        raise ValueError(
            f"past_key_values with {past.get_seq_length()} tokens is not supported: keys and values lie in slots of "
            "the decoder's own pool; pass the whole prompt as input_ids"
        )
    positions = model_kwargs.get("position_ids")
    if positions is not None:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        usual = mask.long().cumsum(dim=-1) - 1
        if positions.shape[-1] != usual.shape[-1] or not torch.equal(
            *(p.expand_as(usual)[mask > 0] for p in (positions, usual))
        ):
            raise ValueError(
                "position_ids other than 0, 1, 2, ... are not supported: positions are path depths; leave it out"
            )


@contextmanager
def _streamer_of_caller() -> Iterator[BaseStreamer | None]:
    """The streamer of the `generate` call around a hook, if it has one; ended at the end.

    transformers hands a hook no streamer, and its reader waits for the end: it is looked up in the frame of `generate`.
    """
    frame = currentframe()
    while frame is not None and frame.f_code is not _GENERATE:
        frame = frame.f_back
    streamer: BaseStreamer | None = None if frame is None else frame.f_locals["streamer"]
    del frame
    try:
        yield streamer
    finally:
        if streamer is not None:
            streamer.end()
