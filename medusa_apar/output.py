"""What `MedusaAparModel.generate` returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers.generation.utils import GenerateDecoderOnlyOutput

from .tree.paragraph_tree import ParagraphTree


@dataclass(slots=True)
class DecodingStats:
    """Figures of one `generate` call, over all its rows.

    Attributes:
        steps: forward passes of the backbone after prefill.
        answer_tokens: visible tokens of the final answers: the final EOS counts, control tokens do not.
        discarded_tokens: tokens that were decoded and lie after a cut (a limit, a stopping criterion).
        forks: threads opened beside the root threads.
        forward_nodes: nodes over all steps; `forward_nodes / steps` is the mean width of a forward pass.
        accepted_draft_tokens: Draft tokens that the backbone confirmed.
        forks_inside_steps: forks after which the parent's path went on in the same step.
        eager_children: children whose `[Child]` was computed in the step of their `[Fork]`.
        preemptions: times that a waiting thread's slots were taken for another.
        peak_slots: most KV slots held at once.
        mean_slots: KV slots held, averaged over steps.
        slots_by_step: KV slots held in each step.
        ar_slots: KV slots that plain decoding of the same answers holds at its end.
        attended_pairs: (node, visible slot) pairs over all steps.
        ar_pairs: those that plain decoding of the same answers has.
        seconds: wall time, prefill included; measuring the cost curve, once per model, is not.
        first_token_seconds: wall time until all rows have their first token.
        backbone_seconds: wall time in the backbone's forward passes.
        head_seconds: wall time in the Medusa heads.
    """

    steps: int = 0
    answer_tokens: int = 0
    discarded_tokens: int = 0
    forks: int = 0
    forward_nodes: int = 0
    accepted_draft_tokens: int = 0
    forks_inside_steps: int = 0
    eager_children: int = 0
    preemptions: int = 0
    peak_slots: int = 0
    mean_slots: float = 0.0
    slots_by_step: list[int] = field(default_factory=list)
    ar_slots: int = 0
    attended_pairs: int = 0
    ar_pairs: int = 0
    seconds: float = 0.0
    first_token_seconds: float = 0.0
    backbone_seconds: float = 0.0
    head_seconds: float = 0.0

    @property
    def tokens_per_step(self) -> float:
        """`answer_tokens / steps`, the hardware-free speed figure; the whole answer if there was no step."""
        return self.answer_tokens / max(1, self.steps)

    @property
    def saved_thread_steps(self) -> int:
        """Steps of single threads saved by not ending a step at a fork, and by computing `[Child]` beside it."""
        return self.forks_inside_steps + self.eager_children

    @property
    def tokens_per_second(self) -> float:
        """`answer_tokens / seconds`."""
        return self.answer_tokens / self.seconds if self.seconds else 0.0


@dataclass
class MedusaAparOutput(GenerateDecoderOnlyOutput):
    """Output of `generate` with `return_dict_in_generate=True`.

    Attributes:
        sequences: `[batch, length]` int64; prompt and answer in reading order, without control tokens.
        trees: the paragraph tree of each row.
        stats: figures of the call.
    """

    trees: tuple[ParagraphTree, ...] | None = None
    stats: DecodingStats | None = None
