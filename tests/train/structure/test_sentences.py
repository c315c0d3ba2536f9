"""The root of an item ends where a reader would end it: no earlier than the first sentence, and not in a quotation."""

from __future__ import annotations

import pytest

from medusa_apar.train.structure import extract

SENTENCES = {
    "a title before a name": ("Call Mrs. Lind about the boat.", "She owns it."),
    "a rank before a name": ("Ask Gov. Berg for a stamp.", "He is in."),
    "initials": ("J. R. Lind wrote it.", "It is long."),
    "a month": ("Meet on Sept. 9 at the gate.", "Bring tea."),
    "a measure": ("Add approx. 3 cups of oats.", "Stir well."),
    "a measure before a word": ("Use 2 tbsp. of oil.", "Stir well."),
    "a source": ("See Lind et al. (2020) for more.", "It is short."),
    "figures": ("See Figs. 3 and 4 below.", "They are small."),
    "a country": ("The U.S. Senate meets there.", "Watch it."),
    "a version": ("Use version 2.0 of it.", "It is new."),
    "an ellipsis of dots": ("Wait... what about tea?", "Drink it."),
    "an ellipsis before a capital": ("Well... Maybe it rains.", "Take a coat."),
    "an ellipsis sign": ("The answer is … Forty.", "Think."),
    "a question in direct speech": ('"Where to?" asked the driver.', "Anna was tired."),
    "curly direct speech": ("“Stop!” cried the guard.", "Nobody did."),
    "direct speech and a name": ('"Where to?" Anna asked softly.', "She was tired."),
    "a quotation of sentences": ('He said "Go. Now." and left.', "It was late."),
    "a colon in a quotation": ('Read "Birds: a guide" first.', "It is short."),
    "parentheses": ("Eat greens (raw. Really.) at noon.", "Enjoy."),
    "a name with an exclamation mark": ("Play Jeopardy! at home.", "It is fun."),
    "a dotted name": ("Call os.Path on it.", "It works."),
    "a word that is an abbreviation, too": ("Lend it to me.", "They like it."),
    "a stop in a quotation": ('They call it a "phoneme."', "That word is old."),
    "an aside in dashes": ("The boat - grey and leaking - sank.", "Nobody drowned."),
    "an aside in long dashes": ("The boat — grey and leaking — sank.", "Nobody drowned."),
    "French": ("Demandez Mme Roux, s'il vous plaît.", "Elle a la clé."),
    "French pages": ("Voir p. ex. le tome 3.", "Il est long."),
    "French direct speech": ("« Qui est là ? » demanda le garde.", "Personne."),
    "German": ("Fragen Sie Hr. Lind im Haus.", "Er weiß es."),
    "German paragraphs": ("Es gilt § 5 Nr. 3 der Satzung.", "Sie ist neu."),
    "German ordinals": ("Am 3. Mai ist Markt.", "Kommen Sie."),
    "German direct speech": ("„Wer da?“, fragte die Wache.", "Niemand."),
    "Spanish": ("Vea la pág. 3 del libro.", "Es largo."),
    "Italian": ("Chieda al Sig. Rossi in sede.", "Ha la chiave."),
    "Dutch": ("Bel dhr. Bos morgen.", "Hij weet het."),
    "Russian": ("Спросите г. Иванова в доме.", "Он знает."),
    "Japanese direct speech": ("「誰？」と番人は聞いた。", "返事はない。"),
}


@pytest.mark.parametrize(("first", "rest"), SENTENCES.values(), ids=SENTENCES.keys())
@pytest.mark.parametrize("markers", ["123", "---"], ids=["ordered", "bullets"])
def test_a_root_is_the_first_sentence(first: str, rest: str, markers: str) -> None:
    signs = [f"{sign}. " if sign.isdigit() else f"{sign} " for sign in markers]
    tree = extract("\n".join(f"{sign}{first} {rest}" for sign in signs))
    assert tree is not None
    assert tree.text == signs[0] + first


@pytest.mark.parametrize(("first", "rest"), SENTENCES.values(), ids=SENTENCES.keys())
def test_so_is_that_of_a_paragraph(first: str, rest: str) -> None:
    tree = extract("\n\n".join(f"{first} {rest}" for _ in range(3)))
    if first.startswith(('"', "“", "„", "«")):
        assert tree is None, "direct speech in every paragraph is a dialogue"
    elif first.startswith(("He ", "They ")):
        assert tree is None, "the paragraphs point back to the first one"
    else:
        assert tree is not None
        assert tree.text == first


LONG_TITLE = '"Nuts: all that is known of them, by those who grow and by those who eat them"'


@pytest.mark.parametrize(
    ("item", "root"),
    [
        ("Nuts - pecans, for a start", "Nuts -"),
        ("Nuts - pecans - soaked - are best", "Nuts -"),
        ("**Nuts** - pecans - are best", "**Nuts** -"),
        (f"{LONG_TITLE} - by Lind", f"{LONG_TITLE} -"),
        ("Nuts (like these: pecans): eat them", "Nuts (like these: pecans):"),
        ("L.O.L. Surprise!: dolls in a box", "L.O.L. Surprise!:"),
        ("**Is it wet?** (look at the sky)", "**Is it wet?**"),
        ("Eat them all. **Nuts** first", "Eat them all."),
        ("**Eat them all.** Nuts first", "**Eat them all.**"),
    ],
)  # fmt: skip
def test_a_title_ends_at_its_dash_or_colon(item: str, root: str) -> None:
    tree = extract("\n".join(f"- {item}" for _ in range(3)))
    assert tree is not None
    assert tree.text == f"- {root}"


def test_a_number_alone_is_no_sentence() -> None:
    tree = extract("**7. Herons stand.** All day.\n\nOthers fly. At night.\n\nBye. Now.")
    assert tree is not None
    assert tree.text == "**7. Herons stand.**"


@pytest.mark.parametrize("item", ["Is it wet? it may be so", "Take 3. 4 are too many", '"Go home. Rest well."'])
def test_no_root_ends_before_a_small_letter_or_a_digit_or_in_a_quotation(item: str) -> None:
    assert extract("\n".join(f"{n}. {item}" for n in (1, 2, 3))) is None
