"""The model runner: nodes and one mask in, logits and head inputs out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from sys import maxsize
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from medusa_apar.heads.backbone_weights import execution_device
from medusa_apar.kv_cache.placement import Ints, Placement
from medusa_apar.kv_cache.slot_cache import SlotCache
from medusa_apar.kv_cache.slot_pool import SlotPool
from medusa_apar.linears.dtype import Weights
from medusa_apar.linears.prepare import prepare_linears

from .attention import attend_reproducibly, attend_to_slots, visits_visible_alone
from .compilation import Compiler
from .forward_pass import ForwardPass
from .masks import attention_masks
from .pass_inputs import PassInputs, PoolInputs
from .supported import check_supported
from .transfer import to_device
from .twin import twin


class ModelRunner:
    """Runs a plain `PreTrainedModel` on flat nodes under one mask. The model itself stays as it is.

    Args:
        model: a supported causal LM.
        compiler: of its steps; None runs them as they are.
        weights: in which its linear layers are computed, `LOADED` or `INT8`.
        auxiliary_layers: whose inputs are the features; none: what enters `lm_head` is.
        further_kv_layers: layers of keys and values that heads keep beside the backbone's.

    Attributes:
        forward_pass: how a step is run.
        lm_head: the output projection.
        weights: as given.
        device: on which the model computes.
        kv_dtype: of keys and values; None for that in which the model computes them.
        kv_layers: layers of keys and values, the backbone's first.

    Raises:
        ValueError: if the model is not supported, or its attention takes no mask.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        compiler: Compiler | None = None,
        weights: Weights = Weights.LOADED,
        *,
        auxiliary_layers: Sequence[int] = (),
        further_kv_layers: int = 0,
    ) -> None:
        check_supported(model)
        self.model = model
        self._twin = twin(model)
        self.weights = weights
        self.device = execution_device(model)
        self.kv_dtype: torch.dtype | None = None
        if weights is Weights.INT8:
            self.kv_dtype = attend_reproducibly(self._twin.config, model.dtype)
        else:
            attend_to_slots(self._twin.config, model.dtype, self.device)
        prepare_linears(self._twin, weights)
        self.lm_head: nn.Module = self._twin.get_output_embeddings()
        self.kv_layers = model.config.num_hidden_layers + further_kv_layers
        self._features = AuxiliaryStates(self._twin, auxiliary_layers) if auxiliary_layers else HeadInputs(self.lm_head)
        self.forward_pass = (
            ForwardPass(self.run) if compiler is None else compiler.forward_pass(self.run, self._blank_cache)
        )

    @property
    def vocab_size(self) -> int:
        """Tokens that the model knows."""
        size: int = self.model.config.vocab_size
        return size

    @cached_property
    def mask_dtype(self) -> torch.dtype:
        """Of attention masks: that of keys and values."""
        return self.kv_dtype or self.model.dtype

    @cached_property
    def context_length(self) -> int:
        """Positions on which one thread's logits do not depend on another's."""
        return context_length(self.model.config)

    def new_pools(
        self, pools: int, capacity: int, max_slots: int | None = None, kind: type[SlotPool] = SlotPool
    ) -> list[SlotPool]:
        """Empty KV pools for this model, of so many slots each; `max_slots` holds for each."""
        capacity = capacity if max_slots is None else min(capacity, max_slots)
        most = maxsize if max_slots is None else max_slots
        cache = self.forward_pass.new_cache(self.kv_layers, pools, capacity, most)
        cache.dtype = self.kv_dtype
        return [kind(cache, index, max_slots) for index in range(pools)]

    @property
    def separates_pools(self) -> bool:
        """Whether nodes of several pools can be in one forward pass."""
        return bool(self.model.config._attn_implementation == "sdpa")

    def prefill(self, placement: Placement, token_ids: Ints, kept: Ints) -> tuple[Tensor, Tensor]:
        """Run the model once over stretches of prompts.

        Args:
            placement: where the nodes lie; keys and values are written to and read from its cache.
            token_ids: `[nodes]`.
            kept: `[kept]` the nodes whose logits are wanted.

        Returns:
            Logits `[kept, vocabulary]`, and features `[kept, size]`, of auxiliary layers `[nodes, size]`.
        """
        inputs = self._inputs(self.forward_pass.fit_prompts(placement), token_ids, kept)
        logits, features = self.forward_pass.prefill(inputs, placement.cache)
        return logits[: len(kept)], features[: len(placement) if self._features.of_all_nodes else len(kept)]

    def forward(self, placement: Placement, token_ids: Ints) -> tuple[Tensor, Tensor]:
        """Run the model once over the nodes of a step.

        Args:
            placement: where the nodes lie; keys and values are written to and read from its cache.
            token_ids: `[nodes]`.

        Returns:
            Logits `[nodes, vocabulary]` and features `[nodes, size]`; valid until the next call.
        """
        inputs = self._inputs(self.forward_pass.fit(placement), token_ids)
        logits, features = self.forward_pass(inputs, placement.cache)
        return logits[: len(placement)], features[: len(placement)]

    def scored_slots(self, placement: Placement) -> float:
        """Slots for which attention computes scores, for each node: those that it sees, or all up to the extent."""
        if visits_visible_alone(self._twin.config, self.mask_dtype, len(placement), placement.attended_count):
            return float(placement.mask.sum()) / len(placement)
        return placement.slots_per_node

    def _inputs(self, placement: Placement, token_ids: Ints, kept: Ints | None = None) -> PassInputs:
        device, dtype = self.device, self.mask_dtype
        padding = len(placement) - len(token_ids)
        return PassInputs(
            to_device(np.pad(token_ids, (0, padding)) if padding else token_ids, device)[None],
            to_device(placement.positions, device)[None],
            attention_masks(self.model.config, placement, dtype, device),
            to_device(placement.flat_slots, device),
            PoolInputs.of(placement, device),
            None if kept is None else to_device(kept, device),
        )

    def _blank_cache(self) -> SlotCache:
        """A cache with the least number of slots, whose tensors are made by a pass over one node."""
        cache = SlotCache(self.kv_layers, 1, 1)
        cache.dtype = self.kv_dtype
        pool = SlotPool(cache)
        zero = np.zeros(1, dtype=np.int64)
        self.run(self._inputs(Placement.acquire([pool], zero, zero, zero, np.eye(1, dtype=np.bool_)), zero), cache)
        return cache

    def run(self, inputs: PassInputs, cache: SlotCache) -> tuple[Tensor, Tensor]:
        """Call the model: logits `[kept, vocabulary]` and features."""
        cache.aim(inputs.slots, inputs.extent)
        output = self._twin(
            input_ids=inputs.input_ids,
            position_ids=inputs.position_ids,
            attention_mask=inputs.masks,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=0 if inputs.kept is None else inputs.kept,
            **inputs.pools.given(),
        )
        return output.logits[0], self._features.last()[0]


class HeadInputs:
    """Keeps what enters the output projection of a twin, hooks included: `[1, kept, hidden_size]`.

    Args:
        projection: the module.
    """

    of_all_nodes = False
    _kept: Tensor

    def __init__(self, projection: nn.Module) -> None:
        self._project = projection.forward
        projection.forward = self._keep

    def last(self) -> Tensor:
        """Of the last pass."""
        return self._kept

    def _keep(self, hidden_states: Tensor) -> Tensor:
        self._kept = hidden_states
        logits: Tensor = self._project(hidden_states)
        return logits


class AuxiliaryStates:
    """Keeps what enters some layers of a twin: `[1, nodes, layers * hidden_size]`.

    Args:
        model: the twin.
        layers: by their numbers; the number of layers stands for the norm after them.
    """

    of_all_nodes = True

    def __init__(self, model: PreTrainedModel, layers: Sequence[int]) -> None:
        decoder: Any = model.get_decoder()
        every = [*decoder.layers, decoder.norm]
        self._inputs = [LayerInput(every[layer]) for layer in layers]

    def last(self) -> Tensor:
        """Of the last pass."""
        return torch.cat([each.kept for each in self._inputs], dim=-1)


class LayerInput:
    """Keeps what enters a layer of a twin.

    Args:
        layer: the module.
    """

    kept: Tensor

    def __init__(self, layer: nn.Module) -> None:
        self._run = layer.forward
        layer.forward = self._keep

    def _keep(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.kept = hidden_states
        return self._run(hidden_states, *args, **kwargs)


def context_length(config: PretrainedConfig) -> int:
    """Positions that a model knows, up to where its rotary frequencies would change for all threads at once.

    rope_type `longrope` picks its frequencies by the largest position of a call and `dynamic` scales them by it, both
    beyond their original length alone; that of `dynamic` is `max_position_embeddings` itself.
    """
    config = config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    by_layer_type = [rope] if "rope_type" in rope else [value for value in rope.values() if isinstance(value, dict)]
    lengths: list[int] = [config.max_position_embeddings]
    for parameters in by_layer_type:
        if parameters.get("rope_type") == "longrope":
            lengths.append(parameters["original_max_position_embeddings"])
    return min(lengths)
