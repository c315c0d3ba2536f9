"""The decoding method that `generate` of transformers calls in place of its own.

transformers prepares everything as for its own decoding: it validates arguments, warns, merges generation configs,
repeats rows, builds logits processors and stopping criteria. This module turns what it prepared into requests of
the decoder, and what the decoder wrote into what `generate` returns.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from time import perf_counter
from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging

from .drafters.drafter import Drafter
from .drafting.budget import FixedBudget, NodeBudget
from .drafting.fixed_tree import FixedTree
from .drafting.ngrams import NgramDrafter
from .drafting.step_cost import measured_budget
from .engine.engine import Engine
from .engine.pools import PoolPlan
from .engine.state import Request
from .output import DecodingStats, MedusaAparOutput
from .runner.model_runner import ModelRunner
from .sampling.randomness import root_key
from .sampling.sampler import Sampler
from .sampling.verification import Acceptance, TypicalAcceptance, accept_exactly
from .tree.control_tokens import ControlTokens
from .tree.paragraph_tree import ParagraphTree
from .tree.stopping import Stopping, asked_criteria, eos_token_ids
from .tree.streaming import ReadingOrderStream

logger = logging.get_logger(__name__)

REFUSED: dict[str, tuple[Any, ...]] = {
    "num_beams": (1, None),
    "num_beam_groups": (1, None),
    "constraints": (None,),
    "force_words_ids": (None,),
    "penalty_alpha": (None, 0.0),
    "dola_layers": (None,),
    "assistant_early_exit": (None,),
    "use_mtp": (False, None),
    "prompt_lookup_num_tokens": (None,),
    "token_healing": (False, None),
    "output_scores": (False, None),
    "output_logits": (False, None),
    "output_attentions": (False, None),
    "output_hidden_states": (False, None),
    "cache_implementation": (None, "dynamic"),
}
"""`GenerationConfig` fields that this decoding does not honour, with the values that ask for nothing."""


@dataclass(frozen=True, slots=True)
class DecodingOptions:
    """What `generate` of `MedusaAparModel` takes beside transformers' arguments.

    Attributes:
        medusa: let the heads draft; by default where there are heads.
        ngrams: draft what came after the last n-gram earlier in the prompt or the answer; by default unless
            `medusa=False`, `medusa_choices` or another acceptance is given. Needs no heads.
        apar: let the model fork; by default where the control tokens are known.
        max_threads: threads of one row in a step; more of them wait. Does not change the answer.
        max_depth: threads of this depth do not fork; the root thread has depth 1. By default `thread_depth`
            of the backbone's config, which training records, else 2.
        max_slots: slots of the KV pool; threads for which there is no room wait. By default what the device can
            hold. Does not change the answer.
        max_batch: rows that are decoded together; the next one begins when one has ended. By default all. Does not
            change the answer.
        nodes_per_step: candidate nodes in a step; by default as many as pay, from a measured cost curve.
        medusa_choices: a fixed tree of ranks after every thread's pending token in place of the likeliest nodes of all
            threads, as medusa-llm lists it; paths that are longer than there are heads end with them.
        acceptance: `exact` is lossless. `typical` is medusa-llm's typical acceptance, and lossy.
        posterior_threshold, posterior_alpha: of typical acceptance.
        seed: of sampling; by default drawn from torch's generator. The same seed gives the same answer, whatever
            the schedule and the other rows.
    """

    medusa: bool | None = None
    ngrams: bool | None = None
    apar: bool | None = None
    max_threads: int = 8
    max_depth: int = 2
    max_slots: int | None = None
    max_batch: int | None = None
    nodes_per_step: int | None = None
    medusa_choices: Sequence[Sequence[int]] | None = None
    acceptance: str = "exact"
    posterior_threshold: float = 0.09
    posterior_alpha: float = 0.3
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_threads", "max_depth", "max_slots", "max_batch", "nodes_per_step"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is below 1; pass a positive number")
        if self.acceptance not in ("exact", "typical"):
            raise ValueError(f"acceptance={self.acceptance!r} is unknown; choose 'exact' or 'typical'")
        for name in ("posterior_threshold", "posterior_alpha"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"{name}={getattr(self, name)} is below 0, which would accept any draft token; raise it"
                )
        if self.nodes_per_step is not None and self.medusa_choices is not None:
            raise ValueError(
                f"nodes_per_step={self.nodes_per_step} and medusa_choices exclude each other; pass one of them"
            )


@dataclass(frozen=True, slots=True)
class Generation:
    """One call of `generate`, as transformers hands it over.

    Attributes:
        runner: of the backbone.
        drafter: draft tokens of its Medusa heads; None where it has none.
        control: the control tokens.
        config: the prepared generation config.
        processors: the prepared logits processors.
        criteria: the prepared stopping criteria.
        options: this decoder's own arguments.
    """

    runner: ModelRunner
    drafter: Drafter | None
    control: ControlTokens | None
    config: GenerationConfig
    processors: LogitsProcessorList
    criteria: StoppingCriteriaList
    options: DecodingOptions

    def run(
        self, input_ids: Tensor, attention_mask: Tensor | None, streamer: BaseStreamer | None
    ) -> torch.LongTensor | MedusaAparOutput:
        """Decode `input_ids` `[batch, length]`.

        Raises:
            ValueError: for arguments that are wrong or not supported; names argument, value and remedy.
        """
        self._check_config()
        medusa, apar = self._modes()
        prompts = self._prompts(input_ids, attention_mask)
        if streamer is not None and len(prompts) > 1:
            raise ValueError(f"streamer takes one row, but the batch has {len(prompts)}; generate row by row")
        ends = eos_token_ids(self.criteria)
        if self.options.acceptance == "typical" and not self.config.do_sample:
            raise ValueError("acceptance='typical' is a way of sampling; pass do_sample=True, or acceptance='exact'")
        with torch.inference_mode():
            requests = self._requests(input_ids, prompts, streamer, fork=apar, eos_token_ids=ends)
            engine = self._engine(requests, self.drafter if medusa else None)
            start = perf_counter()
            try:
                self._decode(engine, requests)
            finally:
                engine.close()
        trees = tuple(request.tree.trimmed(request.limit, request.cut_reason) for request in requests)
        if any(map(_fills_context, trees, requests)):
            logger.warning(
                "This is a friendly reminder - the current text generation call has reached the model's predefined "
                "maximum length (%d), where the answer ends. Shorten the prompt, or lower `max_new_tokens`.",
                self.runner.context_length,
            )
        sequences = _sequences(input_ids, trees, self._padding(ends))
        if not self.config.return_dict_in_generate:
            return sequences
        stats = _final_stats(engine.metrics.stats, requests, trees, perf_counter() - start)
        return MedusaAparOutput(sequences=sequences, trees=trees, stats=stats)

    def _decode(self, engine: Engine, requests: Sequence[Request]) -> None:
        """Decode all requests, as many together as asked for."""
        waiting, room = deque(requests), self._together(requests)
        while waiting or engine.busy:
            while waiting and room:
                engine.add(waiting.popleft())
                room -= 1
            room += sum(not request.live for request in engine.step())

    def _together(self, requests: Sequence[Request]) -> int:
        return min(len(requests), self.options.max_batch or len(requests))

    def _check_config(self) -> None:
        for name, neutral in REFUSED.items():
            value = getattr(self.config, name, None)
            if value not in neutral:
                raise ValueError(
                    f"{name}={value!r} is not supported; pass {name}={neutral[0]!r}, "
                    "or generate with the backbone itself"
                )

    def _modes(self) -> tuple[bool, bool]:
        """Whether to draft, and whether to fork."""
        medusa, apar = self.options.medusa, self.options.apar
        if medusa and self.drafter is None:
            raise ValueError("medusa=True, but the model has no heads; pass heads=..., or medusa=False")
        if apar and self.control is None:
            raise ValueError(
                "apar=True, but no control tokens are known; use an APAR-tuned backbone, or pass "
                "fork_token_id= and child_token_id= to MedusaAparModel, or apar=False"
            )
        return (
            self.drafter is not None if medusa is None else medusa,
            self.control is not None if apar is None else apar,
        )

    def _prompts(self, input_ids: Tensor, attention_mask: Tensor | None) -> list[list[int]]:
        """Rows without their padding."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        prompts: list[list[int]] = [
            row[mask.bool()].tolist() for row, mask in zip(input_ids, attention_mask, strict=True)
        ]
        vocab_size = self.runner.vocab_size
        for number, prompt in enumerate(prompts):
            if not prompt:
                raise ValueError(f"the prompt in row {number} of input_ids is empty; give it at least one token")
            if len(prompt) >= self.runner.context_length:
                raise ValueError(
                    f"the prompt in row {number} of input_ids has {len(prompt)} tokens, but the backbone's context "
                    f"holds {self.runner.context_length}; shorten it"
                )
            if not 0 <= min(prompt) <= max(prompt) < vocab_size:
                raise ValueError(
                    f"row {number} of input_ids holds the token {max(prompt) if min(prompt) >= 0 else min(prompt)}, "
                    f"but the backbone's vocabulary has {vocab_size}; use the backbone's own tokenizer"
                )
        return prompts

    def _requests(
        self,
        input_ids: Tensor,
        prompts: list[list[int]],
        streamer: BaseStreamer | None,
        *,
        fork: bool,
        eos_token_ids: frozenset[int],
    ) -> list[Request]:
        lengths = [self.config.max_length, self.criteria.max_length]
        limit = min(length for length in lengths if length is not None) - input_ids.shape[1]
        asked = asked_criteria(self.criteria)
        seed = self.options.seed
        if seed is None and self.config.do_sample:
            seed = int(torch.randint(2**62, (1,)))
        samplers = Sampler.of_batch(
            self.processors,
            len(prompts),
            self.control,
            sample=bool(self.config.do_sample) and self.options.acceptance != "typical",
            device=input_ids.device,
        )
        acceptance = self._acceptance()
        copies: Counter[tuple[int, ...]] = Counter()
        requests = []
        for context, prompt, sampler in zip(input_ids.tolist(), prompts, samplers, strict=True):
            requests.append(
                Request(
                    tree=ParagraphTree.of_prompt(prompt, self.control, self.options.max_depth),
                    context=context,
                    limit=limit,
                    key=root_key(seed or 0, prompt, copies[tuple(prompt)]),
                    sampler=sampler,
                    acceptance=acceptance,
                    eos_token_ids=eos_token_ids,
                    max_depth=self.options.max_depth if fork else 1,
                    max_threads=self.options.max_threads,
                    stopping=Stopping(asked, context, input_ids.device) if asked else None,
                    stream=None if streamer is None else ReadingOrderStream(streamer),
                    ngrams=NgramDrafter() if self._drafts_ngrams else None,
                )
            )
            copies[tuple(prompt)] += 1
        return requests

    def _acceptance(self) -> Acceptance:
        if self.options.acceptance == "typical":
            return TypicalAcceptance(self.options.posterior_threshold, self.options.posterior_alpha)
        return accept_exactly

    def _engine(self, requests: Sequence[Request], drafter: Drafter | None) -> Engine:
        """An engine with room for the longest path of any row, and its step."""
        draft_length = 0 if self.drafter is None else self.drafter.heads.config.num_heads
        longest = 0
        plan = PoolPlan.of(self.runner, self.options.max_slots)
        for number, request in enumerate(requests):
            # A path holds the prompt, visible tokens up to the limit, a [Fork] between any two of them, and a draft.
            path = request.tree.threads[0].prompt_length + 2 * request.limit + self.options.max_depth + draft_length + 1
            needed = min(path, self.runner.context_length) + 1
            if plan.slots < needed:
                source = " (what the device can hold)" if self.options.max_slots is None else ""
                raise ValueError(
                    f"max_slots={plan.slots}{source} is too small: the longest path of row {number} may need {needed} "
                    f"slots; raise max_slots, or lower max_new_tokens={request.limit}"
                )
            longest = max(longest, needed)
        lengths = sorted(((len(request.context), request.limit) for request in requests), reverse=True)
        together = self._together(requests)
        return Engine(
            self.runner,
            drafter,
            self.control,
            budget=self._budget(drafter),
            pools=plan.pools(together, longest, lengths[:together]),
            context_length=self.runner.context_length,
        )

    def _budget(self, drafter: Drafter | None) -> NodeBudget:
        if drafter is not None and self.options.medusa_choices is not None:
            return FixedTree(self.options.medusa_choices, drafter.heads.draftable)
        if self.options.nodes_per_step is not None:
            return FixedBudget(self.options.nodes_per_step, None if drafter is None else drafter.beams[0])
        if drafter is None and not self._drafts_ngrams:
            return FixedBudget()
        return measured_budget(self.runner, drafter)

    @property
    def _drafts_ngrams(self) -> bool:
        options = self.options
        if options.ngrams is not None:
            return options.ngrams
        return options.medusa is not False and options.medusa_choices is None and options.acceptance == "exact"

    def _padding(self, ends: frozenset[int]) -> int:
        padding = self.config.pad_token_id
        if padding is not None:
            return int(padding)
        eos = self.config.eos_token_id
        return int(eos[0] if isinstance(eos, list) else eos) if eos not in (None, []) else min(ends, default=0)


def _fills_context(tree: ParagraphTree, request: Request) -> bool:
    """Whether an answer is shorter than it may be because a thread of it has come to the end of the context."""
    return tree.visible_tokens() < request.limit and any(thread.finish_reason == "context" for thread in tree.threads)


def _sequences(input_ids: Tensor, trees: Sequence[ParagraphTree], padding: int) -> torch.LongTensor:
    """Prompts and answers, `[batch, length]`, padded on the right as `generate` does."""
    answers = [torch.tensor(tree.answer_token_ids(), dtype=torch.int64) for tree in trees]
    padded = torch.nn.utils.rnn.pad_sequence(answers, batch_first=True, padding_value=padding)
    return cast(torch.LongTensor, torch.cat([input_ids, padded.to(input_ids.device)], dim=1))


def _final_stats(
    stats: DecodingStats, requests: Sequence[Request], trees: Sequence[ParagraphTree], seconds: float
) -> DecodingStats:
    """Fill in the figures that are known at the end."""
    stats.seconds = seconds
    stats.peak_slots = max(stats.slots_by_step, default=0)
    stats.mean_slots = fmean(stats.slots_by_step) if stats.slots_by_step else 0.0
    for request, tree in zip(requests, trees, strict=True):
        visible = tree.visible_tokens()
        stats.answer_tokens += visible
        stats.discarded_tokens += request.tree.visible_tokens() - visible
        stats.forks += len(tree.threads) - 1
        prompt_length = tree.threads[0].prompt_length
        stats.ar_slots += prompt_length + visible - 1
        stats.ar_pairs += sum(range(prompt_length + 1, prompt_length + visible))
    return stats
