"""How likely draft tokens of a request are accepted, by what became of former ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .draft_tree import DraftTree, Scores

_RECENT = 0.05
"""Weight of the last step of a thread in the means over its request, once there are many."""
_PRIOR = 4
"""Steps that the mean has to begin with."""


@dataclass(slots=True)
class RunningAcceptance:
    """Running means over the steps of a request.

    Attributes:
        predicted: `[levels, width]` how likely the heads find the draft tokens after a pending token, the best of a
            level first; None before the first draft tree.
        expected_tokens: draft tokens of a step and thread that were to be accepted; optimistic at first.
        accepted_tokens: those that were, likewise.
        updates: how often the means were updated.
    """

    predicted: Scores | None = None
    expected_tokens: float = 1.0
    accepted_tokens: float = 1.0
    updates: int = 0

    @property
    def expected(self) -> Scores | None:
        """`[levels, width]` how likely draft tokens after a pending token are accepted; None if nothing is known."""
        if self.predicted is None:
            return None
        return self.predicted * min(1.0, self.accepted_tokens / self.expected_tokens)

    def update(self, tree: DraftTree, carried: int, accepted: int) -> None:
        """Take account of a thread's draft tree, of how many of its tokens a step carried and how many it accepted."""
        likely = np.exp(tree.log_probs, dtype=np.float64)
        self.updates += 1
        weight = max(_RECENT, 1 / (self.updates + _PRIOR))
        if self.predicted is None or len(self.predicted) < len(likely):
            self.predicted = likely
        else:
            seen, deeper = self.predicted[: len(likely)], self.predicted[len(likely) :]
            before = seen[-1, 0]
            seen += weight * (likely > 0) * (likely - seen)
            if before > 0:
                # Given the token above, a token that is not drafted now is as likely as it was.
                deeper *= seen[-1, 0] / before
        if carried:
            expected = sum(sorted(likely.ravel().tolist(), reverse=True)[:carried])
            self.expected_tokens += weight * (expected - self.expected_tokens)
            self.accepted_tokens += weight * (accepted - self.accepted_tokens)
