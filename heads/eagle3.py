"""EAGLE-3 heads: one decoder layer over the tokens of a path and the backbone's states below its last layer.

Source: EAGLE-3 (Li et al. 2025, arXiv 2503.01840), section 3. The norms that later checkpoints have are options of the
config.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, LlamaConfig, PretrainedConfig, PreTrainedModel
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from .backbone_weights import execution_device, projection_weight
from .config import AUXILIARY_LAYERS, Eagle3HeadsConfig
from .draft_heads import DraftHeads, PathRows
from .path_attention import NAME as PATHS

LAYERS: dict[str, type[nn.Module]] = {"llama": LlamaDecoderLayer, "qwen3": Qwen3DecoderLayer}
"""Decoder layers by the model type of their config."""


class Eagle3Layer(nn.Module):
    """A decoder layer whose attention reads an embedding beside every state.

    Args:
        config: of the decoder layer.
        norm_before_residual: whether the state is normalised before it goes around attention, too.
    """

    def __init__(self, config: PretrainedConfig, norm_before_residual: bool) -> None:
        super().__init__()
        layer: Any = LAYERS[config.model_type](config, 0)
        attention = layer.self_attn
        attention.config = copy.copy(config)
        attention.config._attn_implementation = PATHS
        for name in ("q_proj", "k_proj", "v_proj"):
            plain = getattr(attention, name)
            setattr(attention, name, nn.Linear(2 * plain.in_features, plain.out_features, plain.bias is not None))
        self.self_attn, self.mlp = attention, layer.mlp
        self.input_layernorm = layer.input_layernorm
        self.hidden_norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = layer.post_attention_layernorm
        self.norm_before_residual = norm_before_residual

    def store(
        self, embeddings: Tensor, states: Tensor, position_embeddings: tuple[Tensor, Tensor], past_key_values: Cache
    ) -> None:
        """Keep the keys and values of rows after which nothing is drafted. Arguments are those of `forward`."""
        attention: Any = self.self_attn
        rows = torch.cat([self.input_layernorm(embeddings), self.hidden_norm(states)], dim=-1)
        by_head = (*rows.shape[:-1], -1, attention.head_dim)
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)  # are computed in one product
        query, key, value = (project(rows).view(by_head) for project in projections)
        if hasattr(attention, "k_norm"):
            key = attention.k_norm(key)
        _, key = apply_rotary_pos_emb(query.transpose(1, 2), key.transpose(1, 2), *position_embeddings)
        past_key_values.update(key, value.transpose(1, 2), attention.layer_idx)

    def forward(self, embeddings: Tensor, states: Tensor, **attention: Any) -> Tensor:
        """The states after the layer.

        Args:
            embeddings: `[1, rows, hidden_size]` of the tokens.
            states: `[1, rows, hidden_size]` of the tokens before them.
            **attention: for the layer's attention: `position_embeddings`, `attention_mask`, `past_key_values`.

        Returns:
            `[1, rows, hidden_size]`.
        """
        normed = self.hidden_norm(states)
        residual = normed if self.norm_before_residual else states
        attended, _ = self.self_attn(
            hidden_states=torch.cat([self.input_layernorm(embeddings), normed], dim=-1), **attention
        )
        states = residual + attended
        after: Tensor = states + self.mlp(self.post_attention_layernorm(states))
        return after


class Eagle3Heads(DraftHeads):
    """One layer that is applied again and again along a path.

    Attributes:
        embed_tokens: embeddings of its own; None where it reads the backbone's.
    """

    config_class = Eagle3HeadsConfig
    config: Eagle3HeadsConfig
    kv_layers = 1

    def __init__(self, config: Eagle3HeadsConfig) -> None:
        super().__init__(config)
        layer = config.layer_config
        width = layer.hidden_size
        states = AUXILIARY_LAYERS if config.auxiliary_layers is None else len(config.auxiliary_layers)
        self.embed_tokens = nn.Embedding(config.vocab_size, width) if config.own_embeddings else None
        self.input_norm = (
            LlamaRMSNorm(states * config.hidden_size, layer.rms_norm_eps) if config.norm_before_fc else None
        )
        norms = [LlamaRMSNorm(config.hidden_size, layer.rms_norm_eps) for _ in range(states * config.fc_norm)]
        self.fc_norm = nn.ModuleList(norms) if norms else None
        self.fc = nn.Linear(states * config.hidden_size, width, bias=False)
        self.layer = Eagle3Layer(layer, config.norm_before_residual)
        with torch.device("cpu"):  # no checkpoint has its frequencies, so loading must not leave them without values
            self.rotary_emb = LlamaRotaryEmbedding(cast(LlamaConfig, copy.copy(layer)))
        self.norm = LlamaRMSNorm(width, eps=layer.rms_norm_eps)
        self.lm_head = nn.Linear(width, config.draft_vocab_size or config.vocab_size, bias=False)
        if config.draft_vocab_size is not None:
            self.register_buffer("draft_token_ids", torch.arange(config.draft_vocab_size))
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def for_backbone(
        cls,
        backbone: PreTrainedModel,
        *,
        num_heads: int = 5,
        intermediate_size: int | None = None,
        draft_token_ids: Tensor | None = None,
    ) -> Eagle3Heads:
        """Untrained heads for a backbone, whose decoder layer has the shape of the backbone's.

        They draft what the backbone's output projection reads out of the last auxiliary layer: the decoder layer adds
        nothing at first.

        Args:
            backbone: the model.
            num_heads: tokens that are drafted ahead.
            intermediate_size: of the decoder layer; by default the backbone's.
            draft_token_ids: `[tokens]` int64, rising, of a draft vocabulary; None drafts among all tokens.
        """
        sizes = backbone.config.get_text_config()
        layer = LlamaConfig(
            hidden_size=sizes.hidden_size,
            intermediate_size=intermediate_size or sizes.intermediate_size,
            num_attention_heads=sizes.num_attention_heads,
            num_key_value_heads=sizes.num_key_value_heads,
            head_dim=getattr(sizes, "head_dim", None) or sizes.hidden_size // sizes.num_attention_heads,
            rms_norm_eps=sizes.rms_norm_eps,
            max_position_embeddings=sizes.max_position_embeddings,
            vocab_size=sizes.vocab_size,
            num_hidden_layers=1,
        )
        config = Eagle3HeadsConfig(
            num_heads=num_heads,
            hidden_size=sizes.hidden_size,
            vocab_size=sizes.vocab_size,
            layer_config=layer,
            auxiliary_layers=default_layers(sizes.num_hidden_layers),
            draft_vocab_size=None if draft_token_ids is None else len(draft_token_ids),
        )
        heads = cls(config)
        rows = projection_weight(backbone)
        if draft_token_ids is not None:
            rows, heads.draft_token_ids = rows[draft_token_ids], draft_token_ids.clone()
        norm: Any = backbone.get_decoder().norm
        last: Any = heads.layer
        with torch.no_grad():
            heads.lm_head.weight.copy_(rows)
            heads.fc.weight.zero_()
            heads.fc.weight[:, -sizes.hidden_size :].fill_diagonal_(1)
            last.self_attn.o_proj.weight.zero_()
            last.mlp.down_proj.weight.zero_()
            ones = torch.ones(1, sizes.hidden_size, dtype=backbone.dtype, device=execution_device(norm))
            heads.norm.weight.copy_(norm(ones)[0])  # whatever kind of norm it is
        return heads.beside(backbone)

    @property
    def auxiliary_layers(self) -> tuple[int, ...]:
        return tuple(self.config.auxiliary_layers or ())

    def fused(self, auxiliary: Tensor) -> Tensor:
        """Fuse the inputs of the auxiliary layers into one state.

        Args:
            auxiliary: `[..., auxiliary_layers * hidden_size]`, the inputs of the auxiliary layers.

        Returns:
            `[..., width]`.
        """
        own = self.fc.weight
        auxiliary = auxiliary.to(own.device, own.dtype)
        if self.input_norm is not None:
            auxiliary = self.input_norm(auxiliary)
        if self.fc_norm is not None:
            parts = auxiliary.chunk(len(self.fc_norm), dim=-1)
            auxiliary = torch.cat([norm(part) for norm, part in zip(self.fc_norm, parts, strict=True)], dim=-1)
        state: Tensor = self.fc(auxiliary)
        return state

    def advance(
        self,
        states: Tensor,
        token_ids: Tensor,
        positions: Tensor,
        embeddings: nn.Module,
        mask: Tensor,
        cache: Cache,
        **attention: Any,
    ) -> tuple[Tensor, Tensor]:
        """Move states on by a token.

        Args:
            states: `[rows, width]` of the tokens before.
            token_ids: `[rows]` int64.
            positions: `[rows]` int64, of the tokens before.
            embeddings: the backbone's input embeddings, where the heads have none of their own.
            mask: additive, `[1, 1, rows, extent]`; rows see their own path behind it.
            cache: keys and values of the layer, to which those of the rows are added.
            **attention: further arguments of the attention function.

        Returns:
            States of the tokens `[rows, width]`, for the tokens after them, and logits `[rows, draft_vocab_size]`.
        """
        embedded = self._embedded(token_ids, embeddings)
        after = self.layer(
            embedded,
            states[None],
            position_embeddings=self.rotary_emb(embedded, positions[None]),
            attention_mask=mask,
            past_key_values=cache,
            **attention,
        )[0]
        normed = self.norm(after)
        return normed if self.config.norm_output else after, self.lm_head(normed)

    def store(self, states: Tensor, token_ids: Tensor, positions: Tensor, embeddings: nn.Module, cache: Cache) -> None:
        """Keep the keys and values of tokens after which nothing is drafted. Arguments are those of `advance`."""
        embedded = self._embedded(token_ids, embeddings)
        self.layer.store(embedded, states[None], self.rotary_emb(embedded, positions[None]), cache)

    def _embedded(self, token_ids: Tensor, embeddings: nn.Module) -> Tensor:
        own = self.fc.weight
        table = embeddings if self.embed_tokens is None else self.embed_tokens
        embedded: Tensor = table(token_ids)[None].to(own.device, own.dtype)
        return embedded

    def forward(
        self,
        hidden_states: Tensor,
        lm_head: nn.Module,
        embeddings: nn.Module | None = None,
        path: Tensor | None = None,
        rows: PathRows | None = None,
    ) -> Tensor:
        """As `DraftHeads.forward`. Each level continues from the states of the one before: section 3.2."""
        if embeddings is None or path is None or rows is None:
            raise ValueError("EAGLE-3 heads attend along paths; pass embeddings, path and rows")
        counts = rows.places.sum(dim=1).tolist()
        paths: tuple[Tensor, ...] = torch.split(path, counts)
        every = zip(hidden_states, paths, range(len(counts)), strict=True)
        logits = [self._along(states, own, rows, at, embeddings) for states, own, at in every if len(own)]
        return torch.cat(logits, dim=1)

    def _along(self, auxiliary: Tensor, path: Tensor, rows: PathRows, at: int, embeddings: nn.Module) -> Tensor:
        """Logits `[num_heads, places, logits]` of one row.

        Args:
            auxiliary: `[length, size]`.
            path: `[places, num_heads]` the tokens after each place.
            rows: all rows.
            at: which of them.
            embeddings: the backbone's.
        """
        tokens, positions, seen = rows.token_ids[at], rows.positions[at], rows.mask[at, 0]
        fused = self.fused(auxiliary)
        hidden = torch.finfo(fused.dtype).min
        before = (seen & (positions == positions[:, None] - 1)).int().argmax(dim=1)  # [length]
        mask = torch.zeros_like(seen, dtype=fused.dtype).masked_fill_(~(seen & (positions > 0)), hidden)
        cache = DynamicCache()
        states, logits = self.advance(
            fused[before], tokens, (positions - 1).clamp(min=0), embeddings, mask[None, None], cache
        )
        pending = rows.successors[at][rows.places[at]]
        states, mask, levels = states[pending], mask[pending], [logits[pending]]
        for level, draft in enumerate(path.unbind(dim=1)[1:]):
            states, logits = self.advance(
                states, draft, positions[pending] + level, embeddings, mask[None, None], cache
            )
            levels.append(logits)
        return torch.stack(levels)

    def check_fits(self, backbone: PreTrainedModel) -> None:
        super().check_fits(backbone)
        layers = backbone.config.get_text_config().num_hidden_layers
        if self.config.auxiliary_layers is None:
            raise ValueError("these heads name no auxiliary layers; load them with `load_heads(source, backbone)`")
        beyond = [layer for layer in self.auxiliary_layers if not 0 <= layer <= layers]
        if beyond:
            raise ValueError(
                f"auxiliary_layers={beyond} of these heads are none of the backbone's {layers} layers; "
                "use heads that were trained on this backbone"
            )
        width = self.config.layer_config.hidden_size
        if self.embed_tokens is None and width != backbone.config.get_text_config().hidden_size:
            raise ValueError(
                f"these heads of a width of {width} have no embeddings of their own; use a checkpoint with embed_tokens"
            )


def default_layers(layers: int) -> list[int]:
    """The auxiliary layers of a backbone with so many layers, where a checkpoint does not name them."""
    return [min(2, layers), layers // 2, max(0, layers - 3)]
