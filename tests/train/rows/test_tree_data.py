"""Tree-packed rows: their loss is the loss of their linear paths, token for token."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from medusa_apar.train.command_line import InputError
from medusa_apar.train.rows.responses import Response
from medusa_apar.train.rows.tree_data import (
    IGNORE_INDEX,
    NO_SUCCESSOR,
    TreeCollator,
    TreeDataset,
    TreeRow,
    next_token_labels,
    pack,
    path_mask,
    tree_row,
)
from medusa_apar.train.structure import extract
from medusa_apar.tree.control_tokens import ControlTokens
from medusa_apar.tree.paragraph_tree import ParagraphNode

from ...fixtures.tiny_recipe import CHAT_TEMPLATE
from ..conftest import byte_tokenizer, tiny_llama

TOKENIZER = byte_tokenizer(control_tokens=True)
CONTROL = ControlTokens.of_tokenizer(TOKENIZER)
EOS = TOKENIZER.eos_token_id
PROMPT = TOKENIZER("<|user|>?<|assistant|>").input_ids


def leaf(text: str) -> ParagraphNode:
    return ParagraphNode(text)


def fork(text: str, first_child: ParagraphNode, next_sibling: ParagraphNode) -> ParagraphNode:
    return ParagraphNode(text, first_child, next_sibling)


HAND_MADE = {
    "one leaf": leaf("abc"),
    "one fork": fork("ab", leaf("child"), leaf("sibling")),
    "two forks": fork("ab", leaf("first"), fork("cd", leaf("second"), leaf("end"))),
    "a fork in a child": fork("ab", fork("cd", leaf("deep"), leaf("less")), leaf("end")),
    "a fork in a child's child": fork("a", fork("b", fork("c", leaf("d"), leaf("e")), leaf("f")), leaf("g")),
    "empty pieces": fork("", leaf(""), fork("", leaf("x"), leaf(""))),
}
EXTRACTED = {
    "a list": extract("Three:\n1. A: bcd\n2. E: fgh\n3. I: jkl\n\nBye."),
    "paragraphs": extract("Cats purr. Ab.\n\nDogs bark. Cd.\n\nCows moo. Ef.\n\nBye."),
}
TREES = {**HAND_MADE, **{name: tree for name, tree in EXTRACTED.items() if tree is not None}}


def row_of(tree: ParagraphNode) -> TreeRow:
    return tree_row(PROMPT, tree, TOKENIZER, CONTROL)


@dataclass(frozen=True)
class Occurrence:
    """A token on a path: which one of the row it is, told by its text piece and its index in it."""

    key: tuple[int, int]
    token: int
    has_loss: bool


def linear_paths(tree: ParagraphNode) -> list[list[Occurrence]]:
    """Every path from the prompt to an EOS, straight from the definition, piece by piece."""
    order = {id(node): number for number, node in enumerate(tree.reading_order())}

    def piece(node: ParagraphNode, opening: list[int], opening_has_loss: bool) -> list[Occurrence]:
        text = TOKENIZER(node.text, add_special_tokens=False).input_ids
        end = CONTROL.fork_token_id if node.next_sibling else EOS
        tokens = [*opening, *text, end]
        return [
            Occurrence((order[id(node)], i), token, opening_has_loss or i >= len(opening))
            for i, token in enumerate(tokens)
        ]

    def walk(node: ParagraphNode, path: list[Occurrence], opening: list[int]) -> list[list[Occurrence]]:
        path = path + piece(node, opening, opening_has_loss=False)
        if node.first_child is None or node.next_sibling is None:
            return [path]
        child_paths = walk(node.first_child, path, [CONTROL.child_token_id])
        return child_paths + walk(node.next_sibling, path, [])

    return walk(tree, [], PROMPT)


def row_index(row: TreeRow) -> dict[tuple[int, int], int]:
    """Where in the row a token of a piece stands; pieces are laid out in reading order."""
    seen: Counter[int] = Counter()
    index = {}
    for at, node in enumerate(row.node):
        index[node, seen[node]] = at
        seen[node] += 1
    return index


def random_trees() -> st.SearchStrategy[ParagraphNode]:
    text = st.text("ab .", max_size=4)
    return st.recursive(st.builds(leaf, text), lambda inner: st.builds(fork, text, inner, inner), max_leaves=12)


@settings(deadline=None)
@given(random_trees())
def test_mask_positions_successors_and_labels_are_those_of_the_paths(tree: ParagraphNode) -> None:
    row, paths = row_of(tree), linear_paths(tree)
    index = row_index(row)
    mask = torch.zeros(len(row), len(row), dtype=torch.bool)
    successor = [NO_SUCCESSOR] * len(row)
    labels = [[IGNORE_INDEX] * len(row) for _ in range(4)]
    covered = set()
    for path in paths:
        places = [index[occurrence.key] for occurrence in path]
        covered.update(places)
        for depth, (place, occurrence) in enumerate(zip(places, path, strict=True)):
            assert row.input_ids[place] == occurrence.token
            assert row.position_ids[place] == depth
            mask[place, places[: depth + 1]] = True
        for depth, place in enumerate(places[:-1]):
            if path[depth + 1].token != CONTROL.child_token_id:
                successor[place] = places[depth + 1]
    for place in range(len(row)):
        at = place
        for ahead in range(4):
            at = successor[at] if at != NO_SUCCESSOR else at
            if at != NO_SUCCESSOR and not row.prompt[at]:
                labels[ahead][place] = row.input_ids[at]
    assert covered == set(range(len(row)))
    assert row.successor == successor
    assert torch.equal(path_mask(torch.tensor(row.node), torch.tensor(row.node_parent)), mask)
    assert [next_token_labels(row, ahead) for ahead in (1, 2, 3, 4)] == labels


@settings(deadline=None)
@given(random_trees())
def test_each_token_is_a_label_once_but_neither_prompt_nor_child(tree: ParagraphNode) -> None:
    row = row_of(tree)
    expected = [
        token
        for token, prompt in zip(row.input_ids, row.prompt, strict=True)
        if not prompt and token != CONTROL.child_token_id
    ]
    labels = [label for label in next_token_labels(row) if label != IGNORE_INDEX]
    assert Counter(labels) == Counter(expected)
    targets = [s for s in row.successor if s != NO_SUCCESSOR]
    assert len(targets) == len(set(targets))
    assert sum(row.prompt) == len(PROMPT)


def test_the_layout_of_one_fork() -> None:
    row = row_of(fork("a", leaf("b"), leaf("c")))
    a, b, c = (TOKENIZER(letter).input_ids[0] for letter in "abc")
    n = len(PROMPT)
    assert row.input_ids == [*PROMPT, a, CONTROL.fork_token_id, CONTROL.child_token_id, b, EOS, c, EOS]
    assert row.position_ids == [*range(n), n, n + 1, n + 2, n + 3, n + 4, n + 2, n + 3]
    assert row.successor == [*range(1, n + 1), n + 1, n + 5, n + 3, n + 4, NO_SUCCESSOR, n + 6, NO_SUCCESSOR]
    assert next_token_labels(row) == [
        *[IGNORE_INDEX] * (n - 1), a, CONTROL.fork_token_id, c, b, EOS, IGNORE_INDEX, EOS, IGNORE_INDEX,
    ]  # fmt: skip
    assert next_token_labels(row, ahead=2)[n - 1 : n + 2] == [CONTROL.fork_token_id, c, EOS]


def test_names_of_control_tokens_in_a_text_are_plain_text() -> None:
    text = "say [Fork] and [Child] and <|end|>"
    row = row_of(leaf(text))
    own = row.input_ids[len(PROMPT) : -1]
    assert not {CONTROL.fork_token_id, CONTROL.child_token_id, EOS} & set(own)
    assert TOKENIZER.decode(own) == text


def test_two_thousand_siblings_and_a_chain_of_two_thousand_children() -> None:
    siblings, chain = leaf("."), leaf(".")
    for _ in range(2000):
        siblings, chain = fork("a", leaf("b"), siblings), fork("a", chain, leaf("b"))
    for tree in (siblings, chain):
        row = row_of(tree)
        assert len(row.node_parent) == 4001
        assert Counter(row.input_ids)[CONTROL.child_token_id] == 2000


def per_token_losses(model: nn.Module, batch: dict[str, Tensor], labels: Tensor) -> Tensor:
    inputs = {name: batch[name] for name in ("input_ids", "position_ids", "attention_mask") if name in batch}
    logits = model(**inputs).logits
    return nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORE_INDEX, reduction="none")


@torch.no_grad()
def linear_losses(model: nn.Module, tree: ParagraphNode) -> dict[tuple[int, int], float]:
    """Loss of every token that has one, each path run alone under a plain causal mask."""
    losses: dict[tuple[int, int], float] = {}
    for path in linear_paths(tree):
        ids = torch.tensor([[occurrence.token for occurrence in path]])
        values = per_token_losses(model, {"input_ids": ids[:, :-1]}, ids[:, 1:])[0].tolist()
        for occurrence, value in zip(path[1:], values, strict=True):
            if occurrence.has_loss:
                assert losses.setdefault(occurrence.key, value) == pytest.approx(value, abs=1e-9)
    return losses


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return tiny_llama(TOKENIZER).double().eval()


@torch.no_grad()
def check_equals_linear(model: nn.Module, trees: list[ParagraphNode], length: int | None = None) -> None:
    rows = [row_of(tree) for tree in trees]
    packed = TreeRow.empty()
    for row in rows:
        packed.extend(row)
    batch = TreeCollator(pad_token_id=0, length=length)([packed])
    values = per_token_losses(model, batch, batch["labels"])[0]
    start, counted = 0, 0
    for tree, row in zip(trees, rows, strict=True):
        index, expected = row_index(row), linear_losses(model, tree)
        for key, value in expected.items():
            before = next(at for at, s in enumerate(packed.successor) if s == start + index[key])
            assert values[before].item() == pytest.approx(value, abs=1e-9)
        start, counted = start + len(row), counted + len(expected)
    assert (batch["labels"] != IGNORE_INDEX).sum() == counted


@pytest.mark.parametrize("name", TREES)
def test_the_packed_loss_is_the_linear_loss_token_for_token(model: nn.Module, name: str) -> None:
    check_equals_linear(model, [TREES[name]])


def test_several_trees_share_a_row_without_seeing_each_other(model: nn.Module) -> None:
    check_equals_linear(model, list(TREES.values()))


def test_padding_changes_nothing(model: nn.Module) -> None:
    check_equals_linear(model, [TREES["two forks"], TREES["a list"]], length=200)


@settings(max_examples=15, deadline=None)
@given(st.lists(random_trees(), min_size=1, max_size=3))
def test_the_packed_loss_is_the_linear_loss_for_random_trees(trees: list[ParagraphNode]) -> None:
    torch.manual_seed(0)
    check_equals_linear(tiny_llama(TOKENIZER).double().eval(), trees)


@torch.no_grad()
def test_transformers_own_loss_is_the_mean_over_the_batch(model: nn.Module) -> None:
    rows = [row_of(tree) for tree in TREES.values()]
    batch = TreeCollator(pad_token_id=0)(rows)
    values = [value for tree in TREES.values() for value in linear_losses(model, tree).values()]
    assert model(**batch).loss.item() == pytest.approx(sum(values) / len(values), abs=1e-4)


def test_the_collator_pads_masks_and_labels_heads() -> None:
    rows = [row_of(TREES["one leaf"]), row_of(TREES["two forks"])]
    length = max(map(len, rows))
    batch = TreeCollator(pad_token_id=9, label_heads=3)(rows)
    assert batch["input_ids"].shape == batch["position_ids"].shape == batch["labels"].shape == (2, length)
    assert batch["attention_mask"].shape == (2, 1, length, length)
    assert batch["attention_mask"].dtype == torch.bool
    assert batch["head_labels"].shape == (2, 3, length)
    short = len(rows[0])
    assert (batch["input_ids"][0, short:] == 9).all()
    assert (batch["labels"][0, short:] == IGNORE_INDEX).all()
    assert (batch["head_labels"][0, :, short:] == IGNORE_INDEX).all()
    assert not batch["attention_mask"][0, 0, :short, short:].any()
    assert not batch["attention_mask"][0, 0, short:, :short].any()
    assert batch["attention_mask"].any(dim=-1).all(), "a row of a mask without any true entry gives NaN"
    for k in range(3):
        assert batch["head_labels"][1, k, : len(rows[1])].tolist() == next_token_labels(rows[1], ahead=k + 2)
    assert TreeCollator(pad_token_id=9, length=100)(rows)["labels"].shape == (2, 100)


@given(st.lists(st.integers(1, 30), max_size=40))
def test_packing_keeps_every_tree_whole_within_the_length(lengths: list[int]) -> None:
    rows = []
    for number, length in enumerate(lengths):
        row = TreeRow.empty()
        row.append_node([number] * length, -1, -1)
        rows.append(row)
    packed = pack(rows, max_length=30)
    assert all(len(row) <= 30 for row in packed)
    assert Counter(token for row in packed for token in row.input_ids) == Counter(dict(enumerate(lengths)))
    assert sum(row.node_parent.count(-1) for row in packed) == len(lengths)
    if lengths:
        assert sum(len(row) <= 15 for row in packed) <= 1, "two half-empty rows would have been one"


LISTED = "1. A: b\n2. C: d\n3. E: f"


def dataset(responses: list[str], max_length: int = 200, structured_share: float | None = None) -> TreeDataset:
    rows = [Response("?", response, place=f"rows.jsonl:{line}") for line, response in enumerate(responses, start=1)]
    return TreeDataset(rows, TOKENIZER, max_length=max_length, structured_share=structured_share)


def test_a_dataset_counts_both_kinds_and_leaves_out_what_is_too_long() -> None:
    data = dataset([LISTED, "plain", "x" * 500, LISTED, "y" * 500], max_length=100)
    assert (data.structured, data.unstructured) == (2, 1)
    assert data.bad_rows.counts == {"longer than 100 tokens": 2}
    assert data.bad_rows.first == {"longer than 100 tokens": "rows.jsonl:3"}
    assert all(len(data[i]) <= 100 for i in range(len(data)))
    assert sum(row.input_ids.count(TOKENIZER.convert_tokens_to_ids("<|user|>")) for row in data.rows) == 3


def test_a_row_of_exactly_the_greatest_length_is_kept() -> None:
    length = len(dataset(["plain"])[0])
    assert len(dataset(["plain"], max_length=length)[0]) == length
    assert len(dataset(["plain"], max_length=length - 1)) == 0


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, (4, 4)), (0.8, (8, 2)), (1.0, (8, 0)), (0.0, (0, 4)), (None, (8, 4))]
)
def test_the_larger_class_is_thinned_to_the_share(share: float | None, expected: tuple[int, int]) -> None:
    data = dataset([LISTED] * 8 + ["plain"] * 4, structured_share=share)
    assert (data.structured, data.unstructured) == expected


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"structured_share=1\.5"):
        dataset([LISTED, "plain"], structured_share=1.5)


def forks_of(data: TreeDataset) -> int:
    return sum(row.input_ids.count(CONTROL.fork_token_id) for row in data.rows)


def test_a_share_of_the_structured_answers_is_learned_flat() -> None:
    rows = [Response("?", LISTED)] * 400 + [Response("?", "plain")] * 100
    data = TreeDataset(rows, TOKENIZER, max_length=200, flat_share=0.25)
    assert data.structured + data.flat == 400
    assert 70 < data.flat < 130
    assert data.unstructured == 100
    assert forks_of(data) == 2 * data.structured
    again = TreeDataset(rows, TOKENIZER, max_length=200, flat_share=0.25)
    assert [row.input_ids for row in again.rows] == [row.input_ids for row in data.rows]


def test_flat_answers_do_not_count_for_the_share_of_structured_ones() -> None:
    rows = [Response("?", LISTED)] * 40 + [Response("?", "plain")] * 40
    data = TreeDataset(rows, TOKENIZER, max_length=200, structured_share=0.5, flat_share=0.5)
    assert data.structured == data.unstructured == 40 - data.flat
    assert data.flat > 0


def test_a_tokenizer_without_control_tokens_is_refused(plain_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="has no control tokens"):
        TreeDataset([Response("?", "a")], plain_tokenizer, max_length=100)


TOOLS = ({"type": "function", "function": {"name": "clock"}},)
WITH_TOOLS = "{% for tool in tools or [] %}<|system|>{{ tool.function.name }}{% endfor %}" + CHAT_TEMPLATE


def templated(template: str) -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer(control_tokens=True)
    tokenizer.chat_template = template
    return tokenizer


def test_tools_and_the_system_message_reach_the_prompt() -> None:
    tokenizer = templated(WITH_TOOLS)
    history = ({"role": "system", "content": "Be brief."},)
    data = TreeDataset([Response("Late?", "Yes.", history, TOOLS)], tokenizer, max_length=200)
    prompt = [token for token, of_prompt in zip(data[0].input_ids, data[0].prompt, strict=True) if of_prompt]
    assert tokenizer.decode(prompt) == "<|system|>clock<|system|>Be brief.<|user|>Late?<|assistant|>"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (CHAT_TEMPLATE, "the chat template leaves out `tools`"),
        (
            "{{ raise_exception('No tools here') if tools }}" + CHAT_TEMPLATE,
            "the chat template refuses `tools`: No tools here",
        ),
        ("{{ 1 // 0 if tools }}" + CHAT_TEMPLATE, "the chat template refuses `tools`: ZeroDivisionError: "),
    ],
)
def test_tools_that_the_chat_template_does_not_take_are_counted(template: str, reason: str) -> None:
    with_tools = Response("Late?", "Yes.", tools=TOOLS, place="rows.jsonl:7")
    data = TreeDataset([with_tools, Response("Late?", "Yes.")], templated(template), max_length=200)
    assert data.unstructured == 1
    assert str(data.bad_rows).startswith(f"1 x {reason}")
    assert list(data.bad_rows.first.values()) == ["rows.jsonl:7"]


USERS_ALONE = "{% for message in messages if message.role == 'user' %}<|user|>{{ message.content }}{% endfor %}"
SYSTEM_NEEDED = "{{ raise_exception('No system message') if messages[0].role != 'system' }}" + CHAT_TEMPLATE


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (USERS_ALONE, "1 x the chat template leaves out the system message (first: rows.jsonl:7)"),
        (SYSTEM_NEEDED, "nothing"),
    ],
)
def test_a_system_message_that_the_chat_template_leaves_out_is_counted(template: str, reason: str) -> None:
    history = ({"role": "system", "content": "Be brief."},)
    response = Response("Late?", "Yes.", history, place="rows.jsonl:7")
    data = TreeDataset([response], templated(template), max_length=200)
    assert str(data.bad_rows) == reason


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("raise_exception('no short questions')", "no short questions"),
        ("messages[7].content", "UndefinedError: list object has no element 7"),
        ("1 // 0", "ZeroDivisionError: integer division or modulo by zero"),
        ("messages[0].content + 1", 'TypeError: can only concatenate str (not "int") to str'),
        ("messages[0].content.index('z')", "ValueError: substring not found"),
        ("messages[0].content.missing()", "UndefinedError: 'str object' has no attribute 'missing'"),
        ("messages.append(1)", "SecurityError: access to attribute 'append' of 'list' object is unsafe."),
    ],
)
def test_a_row_on_which_the_chat_template_fails_is_counted(expression: str, reason: str) -> None:
    template = "{% if messages[0].content == '?' %}{{ " + expression + " }}{% endif %}" + CHAT_TEMPLATE
    rows = [Response("?", "a", place="rows.jsonl:1"), Response("??", "b", place="rows.jsonl:2")]
    data = TreeDataset(rows, templated(template), max_length=200)
    assert data.unstructured == 1
    assert str(data.bad_rows) == f"1 x the chat template refuses it: {reason} (first: rows.jsonl:1)"
