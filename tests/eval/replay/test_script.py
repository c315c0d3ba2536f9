"""Scripts: recorded answers as places that follow each other."""

from __future__ import annotations

from medusa_apar.eval.replay.recorded import RecordedTurn
from medusa_apar.eval.replay.script import CONTROL, EOS, FIRST, Script, script_of

from .recorded_answers import LISTED, PROSE

PROMPT = 5


def turn(answer: str, tokens: int) -> RecordedTurn:
    return RecordedTurn(1, "writing", 1, "Which colours?", answer, tokens, None)


def path(script: Script, place: int) -> list[int]:
    """Tokens from a place to the end of its path."""
    tokens = []
    while place != script.nowhere:
        tokens.append(int(script.token_ids[place]))
        place = int(script.successor[place])
    return tokens


def test_without_forks_an_answer_is_one_path_of_its_tokens() -> None:
    script = script_of(turn(LISTED, 60), PROMPT, forks=False)
    tokens = path(script, PROMPT)
    assert len(tokens) == script.tokens == 60
    assert tokens[:-1] == list(range(FIRST + PROMPT, FIRST + PROMPT + 59)), "every token has an id of its own"
    assert tokens[-1] == EOS
    assert script.prompt[0].tolist() == list(range(FIRST, FIRST + PROMPT))


def test_with_forks_the_path_of_the_main_thread_skips_the_details() -> None:
    script = script_of(turn(LISTED, 60), PROMPT, forks=True)
    assert script.forks == 3
    assert script.tokens == 60, "control tokens do not count"
    main = path(script, PROMPT)
    assert main.count(CONTROL.fork_token_id) == 3
    assert main[-1] == EOS
    children = [at for at, token in enumerate(script.token_ids.tolist()) if token == CONTROL.child_token_id]
    assert len(children) == 3
    for child in children:
        assert script.token_ids[child - 1] == CONTROL.fork_token_id, "a [Child] stands right after its [Fork]"
        assert path(script, child)[-1] == EOS
    ends = 3  # every child's path ends with an EOS of its own, which is invisible
    assert len(script.token_ids) == PROMPT + 60 + 3 + 3 + ends


def test_tokens_are_dealt_out_by_characters() -> None:
    details = "its details are much longer than all the rest of the answer together, " * 7
    script = script_of(turn(f"1. A: is short.\n2. B: {details}.\n3. C: is short.", 100), PROMPT, forks=True)
    children = [at for at, token in enumerate(script.token_ids.tolist()) if token == CONTROL.child_token_id]
    assert 85 <= max(len(path(script, child)) for child in children) <= 98


def test_an_answer_without_structure_does_not_fork() -> None:
    assert script_of(turn(PROSE, 30), PROMPT, forks=True).forks == 0


def test_depth_limits_the_forks() -> None:
    assert script_of(turn(LISTED, 60), PROMPT, forks=True, max_depth=1).forks == 0


def test_places_ahead_end_nowhere() -> None:
    script = script_of(turn(PROSE, 3), PROMPT, forks=False)
    last = len(script.token_ids) - 1
    assert script.ahead(script.successor[[last - 2]], 1).tolist() == [last]
    assert script.ahead(script.successor[[last - 2]], 3).tolist() == [script.nowhere]
