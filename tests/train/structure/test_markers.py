"""What an item of a list may begin with: every way of writing a marker gives the same tree."""

from __future__ import annotations

import pytest

from medusa_apar.train.structure import PAPER, extract, flatten

ITEMS = ("Heron: it stands in the reeds.", "Wren: it nests in the hedge.", "Crow: it opens nuts on the road.")
ORDERED = {
    "capital letters": ("A. ", "B. ", "C. "),
    "capital letters with a bracket": ("A) ", "B) ", "C) "),
    "small letters": ("a. ", "b. ", "c. "),
    "letters in brackets": ("(a) ", "(b) ", "(c) "),
    "numbers in brackets": ("(1) ", "(2) ", "(3) "),
    "numbers in square brackets": ("[1] ", "[2] ", "[3] "),
    "Roman capitals": ("I. ", "II. ", "III. "),
    "small Roman": ("i. ", "ii. ", "iii. "),
    "Roman in brackets": ("(i) ", "(ii) ", "(iii) "),
    "Chinese numerals": ("一、", "二、", "三、"),
    "Chinese numerals in brackets": ("（一）", "（二）", "（三）"),
    "wide brackets": ("（1）", "（2）", "（3）"),
    "wide stops": ("１．", "２．", "３．"),
    "no blank": ("1.", "2.", "3."),
    "a blank before the colon": ("1 : ", "2 : ", "3 : "),
    "keycaps": ("1️⃣ ", "2️⃣ ", "3️⃣ "),
    "keycaps up to eleven": ("9️⃣ ", "🔟 ", "1️⃣1️⃣ "),
    "circled": ("① ", "② ", "③ "),
    "hash signs": ("#1 ", "#2 ", "#3 "),
    "number signs": ("№ 1: ", "№ 2: ", "№ 3: "),
    "dashes": ("1 - ", "2 - ", "3 - "),
    "long dashes": ("1 – ", "2 – ", "3 – "),
    "sections": ("1.1 ", "1.2 ", "1.3 "),
    "ordinals": ("1º ", "2º ", "3º "),
    "escaped stops": ("1\\. ", "2\\. ", "3\\. "),
    "bold": ("**1.** ", "**2.** ", "**3.** "),
    "bold numbers": ("**1**. ", "**2**. ", "**3**. "),
    "brackets with stops": ("1). ", "2). ", "3). "),
    "bold labels without a sign": ("**Step 1** ", "**Step 2** ", "**Step 3** "),
    "bold letters": ("**A.** ", "**B.** ", "**C.** "),
    "bold labels": ("**Step 1:** ", "**Step 2:** ", "**Step 3:** "),
    "shouted labels": ("TIP 1: ", "TIP 2: ", "TIP 3: "),
    "labels in words": ("Step One: ", "Step Two: ", "Step Three: "),
    "labels with letters": ("Part A: ", "Part B: ", "Part C: "),
    "Roman labels": ("Phase I: ", "Phase II: ", "Phase III: "),
    "labels with gaps": ("Day 1: ", "Day 3: ", "Day 7: "),
    "labels with ranges": ("Day 1-2: ", "Day 3: ", "Day 4–7: "),
    "German": ("Schritt 1: ", "Schritt 2: ", "Schritt 3: "),
    "French": ("Étape 1\u202f: ", "Étape 2\u202f: ", "Étape 3\u202f: "),
    "Portuguese": ("Passo 1 – ", "Passo 2 – ", "Passo 3 – "),
    "English ordinals": ("1st step: ", "2nd step: ", "3rd step: "),
    "Russian": ("Шаг 1. ", "Шаг 2. ", "Шаг 3. "),
    "Russian letters": ("а) ", "б) ", "в) "),
    "Greek letters": ("α) ", "β) ", "γ) "),
    "Hebrew letters": ("א. ", "ב. ", "ג. "),
    "Arabic digits": ("١. ", "٢. ", "٣. "),
    "Arabic letters": ("أ. ", "ب. ", "ج. "),
    "Hindi": ("चरण 1: ", "चरण 2: ", "चरण 3: "),
    "Chinese labels": ("步骤一：", "步骤二：", "步骤三："),
    "Chinese ordinals": ("第一步：", "第二步：", "第三步："),
    "Japanese": ("ステップ1：", "ステップ2：", "ステップ3："),
    "Japanese letters": ("ア．", "イ．", "ウ．"),
    "Korean": ("1단계: ", "2단계: ", "3단계: "),
    "Korean letters": ("가. ", "나. ", "다. "),
}
BULLETS = (
    "✓ ",
    "✔️ ",
    "✅ ",
    "☑ ",
    "❌ ",
    "→ ",
    "➡️ ",
    "➤",
    "-> ",
    "=> ",
    "● ",
    "■ ",
    "👉 ",
    "⁃ ",
    "» ",
    "[x] ",
    "[ ] ",
    "・",
)


def check_three_items(text: str) -> None:
    """Two items fork, and the third is the leaf."""
    tree = extract(text)
    assert tree is not None
    assert flatten(tree) == text
    pieces = [node.text.strip() for node in tree.reading_order()]
    assert len(pieces) == 5
    assert pieces[0].endswith("Heron:")
    assert pieces[1] == ITEMS[0].partition(": ")[2]
    assert pieces[2].endswith("Wren:")
    assert pieces[3] == ITEMS[1].partition(": ")[2]
    assert pieces[4].endswith(ITEMS[2])


@pytest.mark.parametrize("markers", ORDERED.values(), ids=ORDERED.keys())
@pytest.mark.parametrize("gap", ["\n", "\n\n"], ids=["lines", "blank lines"])
def test_ordered_items(markers: tuple[str, str, str], gap: str) -> None:
    check_three_items(gap.join(marker + item for marker, item in zip(markers, ITEMS, strict=True)))


@pytest.mark.parametrize("markers", ORDERED.values(), ids=ORDERED.keys())
def test_ordered_items_are_those_of_the_rule_for_ordered_lists(markers: tuple[str, str, str]) -> None:
    """The paper's rules know no bullets."""
    four = [*(marker + item for marker, item in zip(markers, ITEMS, strict=True)), "", "That is all. Good luck."]
    assert extract("\n".join(four), PAPER) is not None


@pytest.mark.parametrize("sign", BULLETS)
def test_signs_are_bullets(sign: str) -> None:
    text = "\n".join(sign + item for item in ITEMS)
    check_three_items(text)
    assert extract(text, PAPER) is None


def test_pictographs_of_many_kinds_are_bullets_of_one_list() -> None:
    check_three_items("\n".join(sign + item for sign, item in zip(("🦢 ", "🐦 ", "🐦‍⬛ "), ITEMS, strict=True)))


class TestWhatIsNoMarker:
    """Some forms also begin lines of prose; they are markers where they count on from one, or come back."""

    @pytest.mark.parametrize(
        "markers", [("C. ", "F. ", "K. "), ("(2) ", "(9) ", "(5) "), ("10 - ", "15 - ", "40 - "), ("#9 ", "#4 ", "#2 ")]
    )
    def test_what_does_not_count_on(self, markers: tuple[str, str, str]) -> None:
        assert extract("\n".join(marker + item for marker, item in zip(markers, ITEMS, strict=True))) is None

    def test_labels_that_do_not_come_back(self) -> None:
        markers = ("Gate 4: ", "Room 12: ", "Line 3: ")
        assert extract("\n".join(marker + item for marker, item in zip(markers, ITEMS, strict=True))) is None

    @pytest.mark.parametrize("text", ["1.5 litres: a jug.\n2.5 litres: a pot.", "10:30 walk: now.\n11:30 rest: then."])
    def test_numbers_of_prose(self, text: str) -> None:
        assert extract(text) is None


def test_signs_around_a_line_decorate_it() -> None:
    text = "🦢 Herons! 🦢\n\nThey stand. All day.\n\nOthers fly. At night.\n\n🦢 Anna Lind 🦢"
    tree = extract(text)
    assert tree is not None
    assert tree.text == "🦢 Herons! 🦢\n\nThey stand."


def test_the_letter_i_and_the_roman_one_are_told_apart() -> None:
    letters = "\n".join(f"{letter}. Bird {letter}: it sings." for letter in "abcdefghij")
    tree = extract(letters)
    assert tree is not None
    assert sum(1 for _ in tree.reading_order()) == 2 * 9 + 1


def test_signs_below_a_number_are_its_details() -> None:
    text = "1. Heron\n→ tall and grey\n2. Wren\n→ small and brown\n3. Crow\n→ black"
    tree = extract(text)
    assert tree is not None
    assert [node.text for node in tree.reading_order()] == [
        "1. Heron", "\n→ tall and grey", "\n2. Wren", "\n→ small and brown", "\n3. Crow\n→ black",
    ]  # fmt: skip
