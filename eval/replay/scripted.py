"""A random model that writes a script: it computes all that a real one does, and then its choices are replaced.

What stands at a node is found from its id. Control tokens have one id for all places, so theirs is found from the slot
before them on their path, which the step's mask shows. The place goes into the hidden state, where the heads read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from medusa_apar.heads import MedusaHeads
from medusa_apar.kv_cache.slot_cache import SlotCache
from medusa_apar.model import MedusaAparModel
from medusa_apar.modes import Mode

from ..decoding.answer import Answer
from ..decoding.decode import Limits, decode
from ..measurement.shapes import random_model
from .hits import RANKS, HitModel
from .script import CONTROL, EOS, FIRST, WRONG, Script

_BASE = 256
"""Digits of a place in the hidden state; numbers up to it are exact in bfloat16."""
_CERTAIN = 1e4
"""Logit of a chosen token."""
_VOCABULARY = 32000
"""Ids for the tokens of a script, also of a shape with fewer."""
_SPARE = 8
"""Tokens by which the limit lies above a script's, so that none is cut."""


class Stage:
    """The script that is being written, by every row of a batch, and what stands in the slots of the KV pools."""

    def __init__(self) -> None:
        self.script: Script | None = None
        self.ranks = torch.empty(0, 0, dtype=torch.int64)
        self.places = torch.empty(0, dtype=torch.int64)
        self._ids = torch.empty(0, 0, dtype=torch.int64)  # [pools, slots of a pool]
        self._positions = torch.empty(0, 0, dtype=torch.int64)

    def follow(self, script: Script, ranks: Tensor) -> None:
        """Play a script from now on; `ranks` `[places, heads]` tell which draft tokens are right."""
        nowhere = ranks.new_full((1, ranks.shape[1]), RANKS)
        self.script, self.ranks = script, torch.cat([ranks, nowhere])

    def locate(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a forward pass of the backbone: find the place of each node whose logits are wanted."""
        ids, positions, cache = kwargs["input_ids"][0], kwargs["position_ids"][0], kwargs["past_key_values"]
        if self.script is None:
            self.places = ids.new_zeros(len(ids))
        else:
            self._remember(cache, ids, positions)
            known = (ids >= FIRST) & (ids < FIRST + self.script.nowhere)
            self.places = torch.where(known, ids - FIRST, self.script.nowhere)
            control = ((ids == CONTROL.fork_token_id) | (ids == CONTROL.child_token_id)).nonzero()[:, 0]
            if len(control):
                seen = kwargs["attention_mask"][0, 0, control] == 0
                pools = cache.slots[control] // cache.stride
                self.places[control] = self._places_of_control(
                    self.script, ids[control], positions[control], pools, seen
                )
        keep = kwargs["logits_to_keep"]
        if isinstance(keep, Tensor):
            self.places = self.places[keep]

    def _remember(self, cache: SlotCache, ids: Tensor, positions: Tensor) -> None:
        shape = (cache.pools, cache.stride)
        if self._ids.shape != shape or self._ids.device != ids.device:
            kept, old = min(self._ids.shape[1], cache.stride), (self._ids, self._positions)
            self._ids, self._positions = ids.new_zeros(shape), ids.new_full(shape, -1)
            if len(old[0]) == cache.pools:  # the pools of the same call, grown
                self._ids[:, :kept], self._positions[:, :kept] = old[0][:, :kept], old[1][:, :kept]
        self._ids.view(-1)[cache.slots], self._positions.view(-1)[cache.slots] = ids, positions

    def _places_of_control(self, script: Script, ids: Tensor, positions: Tensor, pools: Tensor, seen: Tensor) -> Tensor:
        """A `[Fork]` stands after the token before it, and its `[Child]` after the `[Fork]`."""
        child = (ids == CONTROL.child_token_id).long()
        before = positions - 1 - child  # of the last token that is no control token
        at = (seen & (self._positions[pools, : seen.shape[1]] == before[:, None])).long().argmax(dim=1)
        text = self._ids[pools, at] - FIRST
        text = torch.where(text < 0, script.nowhere, text)
        fork = script.successor[text]
        return torch.where(fork == script.nowhere, fork, fork + child)


class ScriptedProjection(nn.Module):
    """An `lm_head` that computes its logits, and then prefers the script's token."""

    def __init__(self, projection: nn.Linear, stage: Stage) -> None:
        super().__init__()
        self.projection = projection
        self.stage = stage
        self.register_forward_pre_hook(self._mark)

    @property
    def weight(self) -> Tensor:
        """The projection's."""
        return self.projection.weight

    def _mark(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        (hidden,) = inputs
        hidden = hidden.clone()
        places = self.stage.places
        hidden[..., 0], hidden[..., 1] = (places // _BASE).to(hidden.dtype), (places % _BASE).to(hidden.dtype)
        return (hidden,)

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.projection(hidden)
        script = self.stage.script
        if script is None:
            return logits
        chosen = script.tokens_at(script.successor[places_in(hidden)])
        return logits.scatter(-1, chosen[..., None], _CERTAIN)


class ScriptedHeads(MedusaHeads):
    """Medusa heads that compute their logits, and then draft as often right as their `HitModel` says."""

    stage: Stage
    hits: HitModel

    def head_logits(self, head: int, hidden_states: Tensor, lm_head: nn.Module) -> Tensor:
        logits = super().head_logits(head, hidden_states, lm_head)
        script = self.stage.script
        if script is None:
            return logits
        tops = torch.tensor(self.hits.accuracy[head], dtype=torch.float64, device=logits.device)
        shares = tops.diff(prepend=tops.new_zeros(1))
        missed = ((1 - tops[-1]) / logits.shape[-1]).clamp(min=1e-9)
        drafted = torch.arange(WRONG, WRONG + RANKS, device=logits.device).expand(*logits.shape[:-1], RANKS)
        places = places_in(hidden_states)
        target = script.ahead(places, head + 2)
        rank = torch.where(target == script.nowhere, RANKS, self.stage.ranks[places, head])
        right = torch.arange(RANKS, device=logits.device) == rank[..., None]
        drafted = torch.where(right, script.tokens_at(target)[..., None], drafted)
        known = shares.log().to(logits.dtype).expand_as(drafted)
        return torch.full_like(logits, missed.log().item()).scatter(-1, drafted, known)


def places_in(hidden: Tensor) -> Tensor:
    """The places that hidden states `[..., hidden_size]` carry."""
    return hidden[..., 0].long() * _BASE + hidden[..., 1].long()


class ScriptedModel:
    """A `MedusaAparModel` with random weights whose answers are scripts.

    Args:
        backbone: a random Llama.
        hits: how often its heads are to be right.
    """

    def __init__(self, backbone: PreTrainedModel, hits: HitModel) -> None:
        self.hits = hits
        self.stage = Stage()
        heads: Any = ScriptedHeads.for_backbone(backbone, num_heads=len(hits.accuracy), shared_projection=False)
        heads.stage, heads.hits = self.stage, hits
        model = cast(Any, backbone)
        model.lm_head = ScriptedProjection(model.lm_head, self.stage)
        model.register_forward_pre_hook(self.stage.locate, with_kwargs=True)
        backbone.generation_config.eos_token_id = backbone.generation_config.pad_token_id = EOS
        CONTROL.record_in(backbone.config)
        self.model = MedusaAparModel(backbone, heads)

    def write(
        self, script: Script, mode: Mode, limits: Limits, *, seed: Sequence[int], rows: int = 1, **options: Any
    ) -> Answer:
        """Let the engine write a script, whole, in every row of a batch; the seed is that of the hits.

        `options` are further ones of `decode`.

        Raises:
            ValueError: if the script has more tokens than the vocabulary has ids.
            RuntimeError: what was written is not the script; the engine is broken.
        """
        vocabulary, device = self.model.backbone.config.vocab_size, self.model.device
        if FIRST + len(script.token_ids) > vocabulary:
            raise ValueError(
                f"an answer of {len(script.token_ids)} tokens, prompt included, needs as many ids, and the backbone's "
                f"vocabulary has {vocabulary}; choose a backbone with a larger one"
            )
        ranks = torch.from_numpy(self.hits.draw(len(script.token_ids), seed))
        script = script.to(device)
        self.stage.follow(script, ranks.to(device))
        prompt = script.prompt.repeat(rows, 1)
        limits = replace(limits, max_new_tokens=script.tokens + _SPARE)
        answer = decode(self.model, mode, prompt, limits, **options)
        wanted = (rows * script.tokens, rows * script.forks)
        if (answer.stats.answer_tokens, answer.stats.forks) != wanted:
            raise RuntimeError(
                f"mode {mode.value!r}: the engine wrote {answer.stats.answer_tokens} tokens with "
                f"{answer.stats.forks} forks, and the scripts of all rows have {wanted[0]} with {wanted[1]}"
            )
        return answer


def scripted_model(shape: str, dtype: torch.dtype, hits: HitModel) -> ScriptedModel:
    """The model of a shape, on the GPU if there is one; its weights are the same every time."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return ScriptedModel(random_model(shape, device, dtype, vocab_size=_VOCABULARY), hits)
