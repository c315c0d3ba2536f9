"""A model whose answers are known beforehand, and records made by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from medusa_apar.eval.decoding.decode import GENERATE
from medusa_apar.eval.speed.turns import TurnRecord
from medusa_apar.modes import Mode
from medusa_apar.output import DecodingStats, MedusaAparOutput
from medusa_apar.tree.control_tokens import ControlTokens

CONTEXT = 256
ALL_MODES = (GENERATE, *(str(mode) for mode in Mode))


@dataclass
class ScriptedModel:
    """Stands where `MedusaAparModel` does; answers `"{mode} {call}"` and remembers what it was asked.

    Set `fail_at` to have that call, counted from 1, interrupted.
    """

    tokenizer: PreTrainedTokenizerFast
    backbone: LlamaForCausalLM
    control: ControlTokens | None
    heads: torch.nn.Module | None
    prompts: list[tuple[str, str]] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    fail_at: int | None = None
    compiled: bool = False
    weights: str = "loaded"

    def compile(self) -> None:
        self.compiled = True

    def generate(self, *, input_ids: torch.Tensor, **request: Any) -> MedusaAparOutput:
        mode = next(mode for mode in Mode if (mode.medusa, mode.apar) == (request["medusa"], request["apar"]))
        self.prompts.append((mode, self.tokenizer.decode(input_ids[0])))
        self.requests.append(request)
        if self.fail_at == len(self.prompts):
            raise KeyboardInterrupt
        answer = self.tokenizer(f"{mode} {len(self.prompts)}")["input_ids"]
        answer = [*answer, self.tokenizer.eos_token_id]
        slots = input_ids.shape[1] + len(answer) - 1
        stats = DecodingStats(
            steps=len(answer) - 1,
            answer_tokens=len(answer),
            forks=2 if mode.apar else 0,
            peak_slots=slots,
            ar_slots=slots,
            backbone_seconds=1e-9,
        )
        return MedusaAparOutput(sequences=torch.cat((input_ids, torch.tensor([answer])), dim=1), trees=(), stats=stats)


def record(question_id: int, mode: str, *, seconds: float = 1.0, **values: Any) -> TurnRecord:
    """A record with the given figures; names of `DecodingStats` go there."""
    names = DecodingStats.__dataclass_fields__
    stats = DecodingStats(**{name: values.pop(name) for name in list(values) if name in names})
    values = {"category": "math", "turn": 1, "prompt_tokens": 5, **values}
    return TurnRecord(question_id=question_id, mode=mode, seconds=seconds, stats=stats, **values)
