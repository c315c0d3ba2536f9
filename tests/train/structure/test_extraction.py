"""Extraction of the paragraph tree: each rule, what is never split, and exactness for every text."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medusa_apar.train.rows.responses import BadRows, read_responses
from medusa_apar.train.structure import PAPER, RULES, Rule, Rules, extract, flatten
from medusa_apar.train.structure.figures import TreeFigures
from medusa_apar.tree.paragraph_tree import ParagraphNode

Pieces = list[tuple[str, str]]


def siblings(text: str) -> tuple[Pieces, str] | None:
    """Roots with their details along the main thread, and the leaf that ends it; None where unstructured."""
    node = extract(text, PAPER)
    if node is None:
        return None
    assert flatten(node) == text
    pieces = []
    while node.next_sibling is not None:
        assert node.first_child is not None
        assert node.first_child.first_child is None, "details are leaves"
        pieces.append((node.text, node.first_child.text))
        node = node.next_sibling
    assert node.first_child is None
    return pieces, node.text


def roots(text: str) -> list[str]:
    found = siblings(text)
    assert found is not None
    return [root for root, _ in found[0]]


def details(text: str) -> list[str]:
    found = siblings(text)
    assert found is not None
    return [detail for _, detail in found[0]]


class TestOrderedLists:
    def test_an_items_root_ends_at_its_first_colon(self) -> None:
        assert siblings("1. Red: a colour.\n2. Salt: a taste.\n3. Loud: a sound.") == (
            [("1. Red:", " a colour."), ("\n2. Salt:", " a taste.")],
            "\n3. Loud: a sound.",
        )

    def test_without_a_colon_the_root_is_the_first_sentence(self) -> None:
        assert siblings("1. Eat well. Greens help.\n2. Sleep! Eight hours.\n3. Walk? Yes.\n") == (
            [("1. Eat well.", " Greens help."), ("\n2. Sleep!", " Eight hours.")],
            "\n3. Walk? Yes.\n",
        )

    def test_whichever_comes_first_ends_the_root(self) -> None:
        text = "1. Eat well. Note: greens.\n2. Sleep: eight hours. Or nine.\n3. Walk: now.\n4. Rest: later."
        assert roots(text) == ["1. Eat well.", "\n2. Sleep:", "\n3. Walk:"]

    def test_a_line_without_either_is_a_root_and_its_bullets_are_details(self) -> None:
        text = "1. Fruit\n   - apples\n   - pears\n\n2. Nuts\n   - pecans\n\n3. Seeds\n   - flax"
        assert siblings(text) == (
            [("1. Fruit", "\n   - apples\n   - pears"), ("\n\n2. Nuts", "\n   - pecans")],
            "\n\n3. Seeds\n   - flax",
        )

    def test_bold_closes_before_the_root_ends(self) -> None:
        assert roots("1. **Red:** a.\n2. **Salt**: b.\n3. **Loud.** C\n4. x: y") == [
            "1. **Red:**", "\n2. **Salt**:", "\n3. **Loud.**",
        ]  # fmt: skip

    def test_the_preamble_belongs_to_the_first_root(self) -> None:
        assert roots("Here are three: enjoy. Really.\n\n1. A: b\n2. C: d\n3. E: f")[0] == (
            "Here are three: enjoy. Really.\n\n1. A:"
        )

    def test_a_postamble_is_the_leaf_and_makes_the_last_item_fork(self) -> None:
        assert siblings("1. A: b\n2. C: d\n3. E: f\n\nThat is all. Bye.") == (
            [("1. A:", " b"), ("\n2. C:", " d"), ("\n3. E:", " f")],
            "\n\nThat is all. Bye.",
        )

    def test_the_last_item_is_a_leaf_also_before_trailing_blanks(self) -> None:
        assert siblings("1. A: b\n2. C: d\n3. E: f \n\n") == (
            [("1. A:", " b"), ("\n2. C:", " d")],
            "\n3. E: f \n\n",
        )

    def test_a_paragraph_between_two_numbers_is_details(self) -> None:
        assert siblings("1. A: b\n\nMore on A.\n\n2. C: d\n\n3. E: f") == (
            [("1. A:", " b\n\nMore on A."), ("\n\n2. C:", " d")],
            "\n\n3. E: f",
        )

    def test_two_lists_in_one_answer(self) -> None:
        text = "Pros:\n1. A: b\n2. C: d\n\nCons:\n1. E: f\n2. G: h\n\nDone."
        assert siblings(text) == (
            [("Pros:\n1. A:", " b"), ("\n2. C:", " d"), ("\n\nCons:\n1. E:", " f"), ("\n2. G:", " h")],
            "\n\nDone.",
        )

    def test_items_without_details_join_the_next_root(self) -> None:
        text = "1. A: b\n2. Nothing here\n3. C: d\n4. E: f\n5. Nor here"
        assert siblings(text) == (
            [("1. A:", " b"), ("\n2. Nothing here\n3. C:", " d"), ("\n4. E:", " f")],
            "\n5. Nor here",
        )

    def test_blank_details_do_not_fork(self) -> None:
        assert extract("1. A:   \n2. B: \n3. C: \n\nEnd.") is None

    @pytest.mark.parametrize("items", range(1, PAPER.min_items + 2))
    def test_fewer_than_three_items_are_unstructured(self, items: int) -> None:
        text = "\n".join(f"{n}. Item: details" for n in range(1, items + 1))
        assert (extract(text, PAPER) is not None) == (items >= PAPER.min_items)

    def test_items_may_be_numbered_with_a_bracket_and_set_apart_by_crlf(self) -> None:
        assert siblings("1) A: b\r\n\r\n2) C: d\r\n\r\n3) E: f\r\n\r\nBye. Now.") == (
            [("1) A:", " b"), ("\r\n\r\n2) C:", " d"), ("\r\n\r\n3) E:", " f")],
            "\r\n\r\nBye. Now.",
        )

    @pytest.mark.parametrize("word", ["Dr.", "Mrs.", "vs.", "e.g.", "i.e.", "approx.", "J.", "U.S."])
    def test_an_abbreviation_ends_no_sentence(self, word: str) -> None:
        text = "\n".join(f"{n}. Ask {word} Lee today. He knows." for n in (1, 2, 3))
        assert details(text) == [" He knows."] * 2

    @pytest.mark.parametrize("word", ["best", "aSt", "xapprox", "ab"])
    def test_a_word_that_ends_like_an_abbreviation_does(self, word: str) -> None:
        text = "\n".join(f"{n}. Beat the {word}. He knows etc. of it." for n in (1, 2, 3))
        assert details(text) == [" He knows etc. of it."] * 2

    def test_a_time_or_an_address_is_no_colon(self) -> None:
        text = "\n".join(f"{n}. Meet at 10:30 on http://a.b today: do not be late" for n in (1, 2, 3))
        assert details(text) == [" do not be late"] * 2


class TestParagraphs:
    def test_the_root_is_the_first_sentence(self) -> None:
        text = "Cats purr. Loudly.\n\nDogs bark! Often.\n\nCows moo. At dawn."
        assert siblings(text) == (
            [("Cats purr.", " Loudly."), ("\n\nDogs bark!", " Often.")],
            "\n\nCows moo. At dawn.",
        )

    def test_paragraphs_of_one_sentence_join_the_next_root(self) -> None:
        text = "Hello there.\n\nCats purr. A.\n\nDogs bark. B.\n\nCows moo. C.\n\nBye."
        assert roots(text) == ["Hello there.\n\nCats purr.", "\n\nDogs bark.", "\n\nCows moo."]

    @pytest.mark.parametrize("marked", ["- one. More.\n- two. More.", "# Title. More.", "  * in. More.", "7) x. More."])
    def test_paragraphs_with_bullets_or_headings_are_kept_whole(self, marked: str) -> None:
        text = f"Cats purr. A.\n\n{marked}\n\nDogs bark. B.\n\nCows moo. C.\n\nBye."
        assert roots(text) == ["Cats purr.", f"\n\n{marked}\n\nDogs bark.", "\n\nCows moo."]

    def test_fewer_than_three_are_unstructured(self) -> None:
        assert extract("Cats purr. A.\n\nDogs bark. B.\n\nBye.", PAPER) is None

    def test_lines_without_blank_lines_between_are_one_paragraph(self) -> None:
        assert extract("Cats purr. A.\nDogs bark. B.\nCows moo. C.\nBye. D.") is None


@pytest.mark.parametrize(
    "markup",
    ["```py\nx\n```", "~~~\nx\n~~~", "$$x$$", r"\(x\)", r"\[x\]", r"\begin{align}", "| a | b |", "  | a |", "<b>x</b>",
     "<br/>", "> quoted", "    x = 1;", "    for (;;) {", "{\n  \"a\": 1\n}", "x = 2 + y", "a + b = 7", "f(x) = y",
     "so |x + 5| = 10 or 3", "E = P x A", "x < y < z"],
)  # fmt: skip
def test_code_math_tables_html_and_quotes_are_never_split(markup: str) -> None:
    listed = "1. A: b\n2. C: d\n3. E: f"
    assert extract(listed) is not None
    assert extract(f"{listed}\n\n{markup}\n") is None


@pytest.mark.parametrize("text", ["", " ", "\n\n", "One sentence.", "1.", "1. ", "1. a\n2. b\n3. c"])
def test_plain_texts_are_unstructured(text: str) -> None:
    assert extract(text) is None


Shape = str | tuple[str, "list[Shape]"]
"""A leaf's text; or a root's, with the siblings that its details are."""


def shape(text: str, *rules: Rule, **limits: int) -> list[Shape] | None:
    """The tree that some rules make of a text, blanks around the pieces aside."""
    node = extract(text, Rules(frozenset(rules or Rule), **limits))
    assert node is None or flatten(node) == text
    return None if node is None else siblings_of(node)


def siblings_of(node: ParagraphNode) -> list[Shape]:
    pieces: list[Shape] = []
    while node.next_sibling is not None:
        assert node.first_child is not None
        pieces.append((node.text.strip(), siblings_of(node.first_child)))
        node = node.next_sibling
    return [*pieces, node.text.strip()]


class TestBullets:
    @pytest.mark.parametrize("sign", "-*+•–")
    def test_an_items_root_is_its_title_or_first_sentence(self, sign: str) -> None:
        text = f"Eat:\n{sign} Nuts: pecans.\n{sign} Seeds - flax.\n{sign} Fruit. Any.\n{sign} Greens: kale."
        assert shape(text, Rule.BULLETS) == [
            (f"Eat:\n{sign} Nuts:", ["pecans."]),
            (f"{sign} Seeds -", ["flax."]),
            (f"{sign} Fruit.", ["Any."]),
            f"{sign} Greens: kale.",
        ]

    def test_bullets_below_an_item_are_its_details_with_forks_of_their_own(self) -> None:
        text = "1. Fruit\n   - Apple: red.\n   - Pear: green.\n2. Nuts: pecans.\n3. End: now."
        inner: list[Shape] = [("- Apple:", ["red."]), "- Pear: green."]
        assert shape(text) == [("1. Fruit", inner), ("2. Nuts:", ["pecans."]), "3. End: now."]

    def test_lists_nest_to_any_depth_up_to_the_limit(self) -> None:
        text = "- A\n  - B\n    - C: c\n    - D: d\n  - E: e\n- F: f"
        third: list[Shape] = [("- C:", ["c"]), "- D: d"]
        assert shape(text, max_depth=4) == [("- A", [("- B", third), "- E: e"]), "- F: f"]
        assert shape(text, max_depth=3) == [("- A", [("- B", ["- C: c\n    - D: d"]), "- E: e"]), "- F: f"]
        assert shape(text, max_depth=2) == [("- A", ["- B\n    - C: c\n    - D: d\n  - E: e"]), "- F: f"]
        assert shape(text, max_depth=1) is None

    def test_an_unindented_paragraph_ends_the_list(self) -> None:
        text = "- A: a\n- B: b\n\nThat is all. Bye."
        assert shape(text, Rule.BULLETS) == [("- A:", ["a"]), ("- B:", ["b"]), "That is all. Bye."]

    def test_they_are_left_whole_without_the_rule(self) -> None:
        assert shape("- A: a\n- B: b\n- C: c", Rule.ORDERED, Rule.PARAGRAPHS) is None


class TestOtherMarkersOfOrderedLists:
    @pytest.mark.parametrize(
        "markers", [("a) ", "b) ", "c) "), ("Step 1: ", "Step 2: ", "Step 3: "), ("1: ", "2: ", "3: ")]
    )
    def test_letters_and_labels_count_too(self, markers: tuple[str, str, str]) -> None:
        first, second, third = markers
        text = f"{first}Mix. Well.\n{second}Bake. Long.\n{third}Eat. Now."
        assert shape(text, Rule.ORDERED) == [
            (f"{first}Mix.", ["Well."]), (f"{second}Bake.", ["Long."]), f"{third}Eat. Now.",
        ]  # fmt: skip


class TestHeadings:
    def test_a_sections_root_is_its_heading(self) -> None:
        text = "Two.\n\n## Pros\n\nIt is fast.\n\n## Cons\n\nIt is dear.\n\n## End\nBye."
        assert shape(text, Rule.HEADINGS) == [
            ("Two.\n\n## Pros", ["It is fast."]), ("## Cons", ["It is dear."]), "## End\nBye.",
        ]  # fmt: skip

    def test_sections_of_the_highest_level_with_several_fork_and_deeper_ones_in_them(self) -> None:
        text = "# Title\n## A\n### B\nb.\n### C\nc.\n## D\nd."
        assert shape(text, Rule.HEADINGS) == [("# Title\n## A", [("### B", ["b."]), "### C\nc."]), "## D\nd."]

    @pytest.mark.parametrize("heading", ["**{}**", "**{}:**", "{}", "{}:"])
    def test_bold_lines_and_lines_that_stand_alone_are_headings(self, heading: str) -> None:
        first, second, third = map(heading.format, ("Good sides", "Bad sides", "Verdict"))
        text = f"Well.\n\n{first}\n\nIt is fast.\n\n{second}\n\nIt is dear.\n\n{third}\n\nTake it."
        assert shape(text, Rule.HEADINGS) == [
            (f"Well.\n\n{first}", ["It is fast."]), (second, ["It is dear."]), f"{third}\n\nTake it.",
        ]  # fmt: skip

    def test_a_title_and_a_conclusion_are_not_two_sections(self) -> None:
        text = "Well.\n\nMy Trip\n\nIt was fine. Very.\n\nConclusion:\n\nGo there."
        assert shape(text, Rule.HEADINGS) is None

    def test_lists_in_sections_fork_again(self) -> None:
        text = "**Eat**\n- Nuts: a\n- Fruit: b\n\n**Drink**\n- Tea: c\n- Milk: d"
        assert shape(text) == [("**Eat**", [("- Nuts:", ["a"]), "- Fruit: b"]), "**Drink**\n- Tea: c\n- Milk: d"]

    def test_lines_of_a_list_that_stand_apart_are_no_headings(self) -> None:
        assert shape("Names:\n\nAlice - one\n\nBob - two\n\nCarol - three", Rule.HEADINGS) is None

    def test_what_later_sections_build_upon_is_written_before_them(self) -> None:
        text = "## Ingredients\nTwo eggs.\n\n## Steps\nBeat the eggs.\n\n## Tips\nUse fresh ones."
        assert shape(text, Rule.HEADINGS) == [
            ("## Ingredients\nTwo eggs.\n\n## Steps", ["Beat the eggs."]), "## Tips\nUse fresh ones.",
        ]  # fmt: skip


class TestWhatDepends:
    """Details that something later in the main thread needs are not split off."""

    def test_a_paragraph_that_points_back_joins_the_details_before_it(self) -> None:
        text = "Cats purr. Loudly.\n\nThis is sweet. Really.\n\nDogs bark. Often.\n\nBye."
        assert shape(text, Rule.PARAGRAPHS) == [
            ("Cats purr.", ["Loudly.\n\nThis is sweet. Really."]), ("Dogs bark.", ["Often."]), "Bye.",
        ]  # fmt: skip

    def test_a_paragraph_that_introduces_a_list_stays_in_the_main_thread(self) -> None:
        text = "Cats purr. Loudly.\n\nNow look. Three kinds.\n\n- A: a\n- B: b"
        assert shape(text) == [
            ("Cats purr.", ["Loudly."]), ("Now look. Three kinds.\n\n- A:", ["a"]), "- B: b",
        ]  # fmt: skip

    def test_so_does_one_that_ends_in_a_colon(self) -> None:
        assert shape("Cats purr. Loudly.\n\nLook. Like so:\n\nMiaow.\n\nDogs bark. Often.\n\nBye.") == [
            ("Cats purr.", ["Loudly."]), ("Look. Like so:\n\nMiaow.\n\nDogs bark.", ["Often."]), "Bye.",
        ]  # fmt: skip


class TestLanguages:
    def test_full_stops_and_colons_without_a_blank_behind_them(self) -> None:
        text = "1. 睡眠：每天八小时。\n2. 多喝水。保持健康。\n3. 运动：每天。"
        assert shape(text) == [("1. 睡眠：", ["每天八小时。"]), ("2. 多喝水。", ["保持健康。"]), "3. 运动：每天。"]

    def test_markers_without_a_blank_behind_them(self) -> None:
        assert shape("1、猫：喵。\n2、狗：汪。\n3、牛：哞。") == [
            ("1、猫：", ["喵。"]),
            ("2、狗：", ["汪。"]),
            "3、牛：哞。",
        ]

    @pytest.mark.parametrize("stop", ["؟", "।", "۔", "！"])
    def test_stops_of_other_scripts_end_sentences(self, stop: str) -> None:
        text = "\n\n".join(f"अ{stop} ब{stop}" for _ in range(3))
        assert shape(text, Rule.PARAGRAPHS) == [(f"अ{stop}", [f"ब{stop}"])] * 2 + [f"अ{stop} ब{stop}"]

    @pytest.mark.parametrize("word", ["z.B.", "bzw.", "Mme.", "Sr.", "a.m.", "U.S."])
    def test_abbreviations_of_other_languages_end_none(self, word: str) -> None:
        text = "\n".join(f"{n}. Heute {word} Lee fragen. Er kommt." for n in (1, 2, 3))
        assert shape(text) == [(f"{n}. Heute {word} Lee fragen.", ["Er kommt."]) for n in (1, 2)] + [
            f"3. Heute {word} Lee fragen. Er kommt."
        ]


def test_no_fork_where_the_limits_do_not_allow_it() -> None:
    text = "1. A: a\n2. B: b"
    assert shape(text, min_items=2) is not None
    assert shape(text, min_items=3) is None


def test_a_node_has_both_children_or_neither() -> None:
    leaf = ParagraphNode("b")
    ParagraphNode("a", leaf, leaf)
    for one_child in ({"first_child": leaf}, {"next_sibling": leaf}):
        with pytest.raises(ValueError, match="both or neither"):
            ParagraphNode("a", **one_child)


FRAGMENTS = (
    "1. ", "2. ", "3) ", "4.\t", " 5. ", "12. ", "- ", "* ", "# ", "Item: ", "Dr. ", "etc.", "10:30", "**Bold:** ", "!",
    "A sentence. ", "More? ", "word ", ":", ".", "\n", "\n\n", "\r\n", "\r\n\r\n", "\t", "  ", "\n \n", "\x0b", "\x0c",
    "\x1c", "\x85", "\u00a0", "\u2028", "\u2029", "\u3000", "\n\n\n1. A: b", "\n2. C: d", "\n3. E: f",
    "\n\n## H\n", "\n\n**Bold**\n", "\n\nAlone\n\n", "  - ", "    * ", "a) ", "Step 1: ", "一、", "。", "：", " - ",
    "This. ",
    "(1) ", "(a)", "A. ", "ii. ", "→ ", "✅", "1️⃣ ", "**1.** ", "#1 ", "1 - ", "第一步：", "1.1 ",
    "\u200b", "\ufeff", "\u202f", "<think>", "</think>", "\n===\n", "\n---\n", "\"", "“", "” ", "(", ") ", "… ", "... ",
    "Anna: hi?\n", "key: value\n", "a,b\n",
    "\n\nPara. Rest.", "\n\nBye", "| a |", "> q", "<b>", "\ud800", "é", "١. ", "👩‍👩‍👧",
)  # fmt: skip


def check_exact(text: str) -> None:
    tree = extract(text)
    if tree is None:
        return
    assert flatten(tree) == text
    nodes = list(tree.reading_order())
    assert all(node.text.strip() for node in nodes)
    assert all((node.first_child is None) == (node.next_sibling is None) for node in nodes)


@given(st.text(max_size=300))
def test_flattening_gives_back_any_text(text: str) -> None:
    check_exact(text)


@settings(max_examples=500)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=60).map("".join))
def test_flattening_gives_back_lists_and_paragraphs_with_odd_blanks(text: str) -> None:
    check_exact(text)


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.sampled_from(FRAGMENTS), st.sampled_from(FRAGMENTS)), min_size=3, max_size=8),
    st.sampled_from(["\n", "\r\n", "\n\n", "\n \t\n", "\r\n\r\n"]),
    st.sampled_from(FRAGMENTS),
)
def test_flattening_gives_back_true_lists(items: list[tuple[str, str]], gap: str, end: str) -> None:
    check_exact(gap.join(f"{n}. A{head}: b{tail}" for n, (head, tail) in enumerate(items, start=1)) + gap + end)


HOSTILE = {
    "newlines": "\n", "blanks": " ", "blank lines": "\n\x0b", "tabs": "\n\t", "abbreviations": "Dr. ", "stops": ". ",
    "dots": ".", "colons": ":", "asterisks": ":*", "indentation": "\n    x", "semicolons": "    ;", "angles": "<a",
    "open tables": "|", "items": "\n1. a", "counting items": "\n1. a: b", "empty items": "\n1. ", "digits": "1",
    "open quotations": "“", "open brackets": "(", "guillemets": "« a. ", "quoted": '"a. ', "dashes": "a - b ",
    "labels": "\nStep 1: a. b", "letters": "\nA. a: b", "Roman": "\ni. a: b", "signs": "\n→ a: b",
    "keycaps": "\n1️⃣ a: b", "speakers": "\nAnna: you? Yes.", "keys": "\na: b", "rows": "\na,b,c",
    "assignments": "\na = b", "verses": "\nThe tide goes out", "tags": "<a b", "thoughts": "</think>",
    "underlines": "\na\n===", "ellipses": "… A", "zero widths": "\n\u200b", "joiners": "\u200d",
    "steps": "\n1. By step 1", "screens": "\nANNA\nHi", "prices": "$$ ", "equations": "a = b ",
    "emphasis": "**a", "numbers": "\n1.1.1.1", "names": "Dr. A", "spaces before stops": " .",
    "quotes": '."', "bullets": "\n\n- a. b", "paragraphs": "\n\na. b", "returns": "\r", "blank bullets": "\n\n ",
}  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_texts_take_no_quadratic_time(piece: str) -> None:
    def seconds(characters: int) -> float:
        start = time.process_time()
        for lead, tail in (
            ("", ""), ("1. a: b\n2. c: d\n3. e: ", "x"), ("    ", "x;y"), ("a. b\n\nc. d\n\n", "\n\ne. f"),
        ):  # fmt: skip
            check_exact(lead + piece * (characters // len(piece)) + tail)
        return time.process_time() - start

    whole = seconds(30_000)
    assert whole < 0.36 or whole < 3 * seconds(15_000), "on a slow machine, half of the text takes half of the time"


def test_a_list_of_two_thousand_items() -> None:
    text = "\n".join(f"{n % 1000}. Item {n}: details" for n in range(1, 2001))
    found = siblings(text)
    assert found is not None
    assert len(found[0]) == 1999


@pytest.mark.slow
def test_every_training_response_comes_back(data_folder: Path) -> None:
    bad_rows = BadRows()
    responses = forkable = 0
    for response in read_responses(data_folder / "responses-train.jsonl.xz", bad_rows):
        tree = extract(response.response)
        responses += 1
        if tree is not None:
            assert flatten(tree) == response.response
            forkable += 1
    assert responses == 64_365
    assert not bad_rows.counts
    assert 0.3 < forkable / responses < 0.7


def critical_path(node: ParagraphNode) -> tuple[int, int]:
    """Characters of a tree, and those on its longest path."""
    path, total, longest = 0, 0, 0
    current: ParagraphNode | None = node
    while current is not None:
        path += len(current.text)
        total += len(current.text)
        longest = max(longest, path)
        if current.first_child is not None:
            child_total, child_path = critical_path(current.first_child)
            total += child_total
            longest = max(longest, path + child_path)
        current = current.next_sibling
    return total, longest


@pytest.mark.slow
def test_forkable_share_of_vicunas_mt_bench_answers(data_folder: Path) -> None:
    turns = []
    with (data_folder / "mt_bench" / "answers-medusa-vicuna-7b-v1.3.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            turns += json.loads(line)["choices"][0]["turns"]
    assert len(turns) == 160
    found = {}
    for name, rules in (("paper", PAPER), ("all rules", RULES)):
        trees = [extract(turn, rules) for turn in turns]
        share = sum(tree is not None for tree in trees) / len(turns)
        paths = [critical_path(tree or ParagraphNode(turn)) for tree, turn in zip(trees, turns, strict=True)]
        found[name] = sum(total for total, _ in paths) / sum(longest for _, longest in paths)
        print(f"{name}: forkable {share:.3f}, ideal step ratio {found[name]:.3f}")
        assert 0.3 <= share <= 0.45
    assert 1.25 <= found["paper"] < found["all rules"]


def test_no_answer_takes_fewer_steps_than_its_longest_piece_has_tokens() -> None:
    text = "1. Red: a colour.\n2. Salt: a taste of the sea and of tears.\n3. Loud: a sound."
    starts = list(range(len(text)))  # a token is a character
    tree = extract(text)
    assert tree is not None
    figures = TreeFigures.of(tree, starts)
    assert figures.longest == len(" a taste of the sea and of tears.") + 1
    assert figures.longest < figures.steps < figures.tokens == len(text) + 1
    assert TreeFigures.of(None, starts).longest == len(text) + 1
