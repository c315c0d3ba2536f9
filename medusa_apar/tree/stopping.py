"""Stopping criteria, asked about the answer in reading order.

`max_new_tokens` cuts the answer after so many tokens in reading order. A stopping criterion cuts it after the
first token at which it is met there. So, like a limit, it is a cut of the answer that an unlimited run would give,
whatever the schedule, and stop strings are found across the joins of threads.
"""

from __future__ import annotations

import torch
from transformers import MaxLengthCriteria, StoppingCriteriaList
from transformers.generation.stopping_criteria import EosTokenCriteria

NATIVE = (MaxLengthCriteria, EosTokenCriteria)
"""Criteria that the decoder knows itself."""


def asked_criteria(criteria: StoppingCriteriaList) -> StoppingCriteriaList:
    """Those that have to be asked about every token."""
    return StoppingCriteriaList(item for item in criteria if not isinstance(item, NATIVE))


def eos_token_ids(criteria: StoppingCriteriaList) -> frozenset[int]:
    """Tokens that end a thread."""
    ends = [item.eos_token_id for item in criteria if isinstance(item, EosTokenCriteria)]
    return frozenset(int(token) for tokens in ends for token in torch.as_tensor(tokens).flatten())


class Stopping:
    """Asks criteria about one row's answer while it becomes readable.

    Args:
        criteria: of transformers; called with `[1, length]` token ids and None for scores.
        context: the row of `input_ids`, padding and all.
        device: where criteria get their token ids.
    """

    def __init__(self, criteria: StoppingCriteriaList, context: list[int], device: torch.device) -> None:
        self._criteria = criteria
        self._context = context
        self._device = device
        self._asked = 0

    def cut(self, readable: list[int]) -> int | None:
        """The number of answer tokens after which a criterion ends the answer, if one does.

        Without new tokens it is asked once more about the old ones: a criterion may look at the clock.

        Args:
            readable: the answer so far in reading order.
        """
        for length in range(max(1, min(self._asked + 1, len(readable))), len(readable) + 1):
            self._asked = length
            input_ids = torch.tensor([self._context + readable[:length]], device=self._device)
            if bool(torch.as_tensor(self._criteria(input_ids, None)).all()):
                return length
        return None
