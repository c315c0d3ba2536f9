"""Forks that go wrong at a rate."""

from __future__ import annotations

import pytest
import torch
from transformers import LogitsProcessorList

from medusa_apar.eval.decoding.fork_errors import DELAY, SPACING, ForkError, ForkErrors
from medusa_apar.sampling.processors import process

FORK, EOS, WORD = 4, 1, 7


def errors(error: ForkError, rate: float) -> ForkErrors:
    return ForkErrors(error, rate, FORK, frozenset({EOS}))


def scores(*wanted: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(wanted), 10).float()


def contexts(count: int) -> torch.Tensor:
    return torch.arange(count * 12).view(count, 12)


@pytest.mark.parametrize("error", list(ForkError))
def test_at_rate_0_a_backbone_forks_as_it_will(error: ForkError) -> None:
    given = scores(FORK, WORD, EOS)
    assert torch.equal(errors(error, 0.0)(contexts(3), given), given)


def test_missing_forks_give_way_to_the_second_choice() -> None:
    changed = errors(ForkError.MISSING, 1.0)(contexts(2), scores(FORK, WORD))
    assert changed[0, FORK] == -torch.inf
    assert changed.argmax(dim=-1)[1] == WORD


def test_misplaced_forks_come_later() -> None:
    processor = errors(ForkError.MISPLACED, 1.0)
    context = list(range(20, 32))
    assert processor(torch.tensor([context]), scores(FORK)).argmax() != FORK
    for later in range(1, DELAY):
        assert processor(torch.tensor([[*context, *[WORD] * later]]), scores(WORD)).argmax() == WORD
    assert processor(torch.tensor([[*context, *[WORD] * DELAY]]), scores(WORD)).argmax() == FORK


def test_spurious_forks_come_at_their_rate_and_never_for_an_end() -> None:
    processor = errors(ForkError.SPURIOUS, 0.5)
    many = contexts(20_000)
    forked = (processor(many, scores(*[WORD] * 20_000)).argmax(dim=-1) == FORK).float().mean().item()
    assert forked == pytest.approx(0.5 / SPACING, abs=0.005)
    ended = processor(many, scores(*[EOS] * 20_000)).argmax(dim=-1)
    assert (ended == EOS).all()


def test_missing_forks_come_at_their_rate() -> None:
    processor = errors(ForkError.MISSING, 0.3)
    missing = (processor(contexts(10_000), scores(*[FORK] * 10_000))[:, FORK] == -torch.inf).float().mean().item()
    assert missing == pytest.approx(0.3, abs=0.02)


def test_an_error_depends_on_the_context_alone() -> None:
    together = errors(ForkError.MISSING, 0.5)(contexts(40), scores(*[FORK] * 40))
    apart = torch.cat([errors(ForkError.MISSING, 0.5)(row[None], scores(FORK)) for row in contexts(40)])
    assert torch.equal(together, apart)


def test_a_rate_beyond_1() -> None:
    with pytest.raises(ValueError, match=r"fork_error_rate=1\.5 is not between 0 and 1"):
        errors(ForkError.MISSING, 1.5)


def test_late_forks_come_whatever_the_order_of_the_nodes() -> None:
    """A step asks about contexts of all lengths at once; a longer one may be listed before the fork above it."""
    context = list(range(20, 32))
    late = [*context, *[WORD] * DELAY]
    processors = LogitsProcessorList([errors(ForkError.MISPLACED, 1.0)])
    changed = process(processors, [late, context], scores(WORD, FORK))
    assert changed[0].argmax() == FORK
    assert changed[1].argmax() != FORK
