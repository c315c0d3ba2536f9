"""Configurations of draft heads."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig

EAGLE3_LAYERS = ("llama", "qwen3")
"""Whose decoder layers EAGLE-3 heads may have."""
AUXILIARY_LAYERS = 3
"""Layers whose input they read, where a checkpoint does not name any."""


class HeadsConfig(PretrainedConfig):
    """What every set of heads has.

    Args:
        num_heads: how many tokens are drafted; head k (from 1) drafts the one k + 1 positions ahead.
        hidden_size: width of the backbone's last hidden state.
        vocab_size: tokens of the backbone.
        calibration_temperature: per head, what its logits are divided by before they count as
            probabilities; fitted on held-out data. Empty: ones.
        accuracy: per head, held-out top-1 to top-5 accuracy; empty before training.
        acceptance: per head, the share of steps along held-out text in which the best draft tokens of it and of all
            heads before were right; empty before training.
    """

    def __init__(
        self,
        num_heads: int = 5,
        hidden_size: int = 4096,
        vocab_size: int = 32000,
        calibration_temperature: list[float] | None = None,
        accuracy: list[list[float]] | None = None,
        acceptance: list[float] | None = None,
        **kwargs: Any,
    ) -> None:
        self.num_heads = num_heads
        self.hidden_size = hidden_size
        self.vocab_size = vocab_size
        self.calibration_temperature = calibration_temperature or [1.0] * num_heads
        self.accuracy = accuracy or []
        self.acceptance = acceptance or []
        super().__init__(**kwargs)

    @property
    def tokens_per_step(self) -> float | None:
        """Along held-out text, with the heads' best draft tokens alone; None before training."""
        return 1 + sum(self.acceptance) if self.acceptance else None

    @property
    def shape(self) -> dict[str, int | bool]:
        """What the sizes of the tensors follow from."""
        return {name: getattr(self, name) for name in ("num_heads", "hidden_size", "vocab_size")}


class MedusaHeadsConfig(HeadsConfig):
    """Shape of a set of Medusa heads.

    Args:
        num_layers: residual blocks in a head.
        shared_projection: project with the backbone's own `lm_head` rather than one matrix per head.
        projection_rank: of each head's own projection, for small files; None: a whole matrix.
        draft_vocab_size: tokens that may be drafted, rows of own projections; None: any.
        **kwargs: of `HeadsConfig`.
    """

    model_type = "medusa_heads"

    def __init__(
        self,
        num_layers: int = 1,
        shared_projection: bool = False,
        projection_rank: int | None = None,
        draft_vocab_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        for name, value in (("projection_rank", projection_rank), ("draft_vocab_size", draft_vocab_size)):
            if shared_projection and value is not None:
                raise ValueError(
                    f"{name}={value} is of own projections, and shared_projection=True has none; leave one of them out"
                )
        self.num_layers = num_layers
        self.shared_projection = shared_projection
        self.projection_rank = projection_rank
        self.draft_vocab_size = draft_vocab_size
        super().__init__(**kwargs)

    @property
    def shape(self) -> dict[str, int | bool]:
        optional = {"projection_rank": self.projection_rank, "draft_vocab_size": self.draft_vocab_size}
        own = {name: value for name, value in optional.items() if value is not None}
        return super().shape | {"num_layers": self.num_layers, "shared_projection": self.shared_projection} | own


class SequentialHeadsConfig(HeadsConfig):
    """Shape of a set of sequential heads.

    Args:
        intermediate_size: width between the head's two matrices; by default four times `hidden_size`.
        draft_vocab_size: rows of the heads' own projection: tokens that may be drafted, and one row for all others.
            None: any token may be, and the backbone's `lm_head` projects.
        embedding_scale: what the backbone's embeddings are multiplied by, so that their entries are about 1: backbones
            scale them in ways of their own.
        **kwargs: of `HeadsConfig`. Accuracy is that after the right tokens.
    """

    model_type = "medusa_apar_sequential_heads"

    def __init__(
        self,
        intermediate_size: int | None = None,
        draft_vocab_size: int | None = None,
        embedding_scale: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.intermediate_size = intermediate_size or 4 * self.hidden_size
        self.draft_vocab_size = draft_vocab_size
        self.embedding_scale = embedding_scale

    @property
    def shape(self) -> dict[str, int | bool]:
        own = {} if self.draft_vocab_size is None else {"draft_vocab_size": self.draft_vocab_size}
        return super().shape | {"intermediate_size": self.intermediate_size} | own


class Eagle3HeadsConfig(HeadsConfig):
    """Shape of a set of EAGLE-3 heads. `num_heads` is how far ahead they draft, however far they were trained to.

    Args:
        layer_config: of the decoder layer, a config of `transformers` or its fields, `model_type` among them.
        auxiliary_layers: which layers of the backbone's the heads read the input of, the first of them 0. The number
            of layers stands for what enters the last norm. None: those of the paper, which the backbone tells.
        draft_vocab_size: tokens that may be drafted; None: any.
        norm_before_residual: whether the decoder layer's state is normalised before it goes around attention, too.
        norm_before_fc: whether the backbone's states are normalised together.
        fc_norm: whether they are normalised one by one.
        norm_output: whether the state that goes on along a path is normalised.
        own_embeddings: whether the heads have embeddings of their own.
        **kwargs: of `HeadsConfig`. Accuracy is that after the right tokens.
    """

    model_type = "medusa_apar_eagle3_heads"

    def __init__(
        self,
        layer_config: PretrainedConfig | dict[str, Any] | None = None,
        auxiliary_layers: list[int] | None = None,
        draft_vocab_size: int | None = None,
        norm_before_residual: bool = False,
        norm_before_fc: bool = False,
        fc_norm: bool = False,
        norm_output: bool = False,
        own_embeddings: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if norm_before_fc and fc_norm:
            raise ValueError(
                "norm_before_fc=True and fc_norm=True are two ways to normalise the same; take one of them"
            )
        fields = (
            layer_config if isinstance(layer_config, dict) else {} if layer_config is None else layer_config.to_dict()
        )
        fields = {"model_type": "llama", "hidden_size": self.hidden_size, "vocab_size": self.vocab_size, **fields}
        if fields["model_type"] not in EAGLE3_LAYERS:
            known = " or ".join(EAGLE3_LAYERS)
            raise ValueError(f"model_type={fields['model_type']!r} of the decoder layer is not supported; use {known}")
        self.layer_config: PretrainedConfig = AutoConfig.for_model(**fields)
        self.auxiliary_layers = auxiliary_layers
        self.draft_vocab_size = draft_vocab_size
        self.norm_before_residual = norm_before_residual
        self.norm_before_fc = norm_before_fc
        self.fc_norm = fc_norm
        self.norm_output = norm_output
        self.own_embeddings = own_embeddings

    @property
    def shape(self) -> dict[str, int | bool]:
        own = {"width": self.layer_config.hidden_size, "intermediate_size": self.layer_config.intermediate_size}
        vocabulary = {} if self.draft_vocab_size is None else {"draft_vocab_size": self.draft_vocab_size}
        return super().shape | own | vocabulary | {"own_embeddings": self.own_embeddings}
