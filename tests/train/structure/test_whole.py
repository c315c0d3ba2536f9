"""What is never split, and what only looks like it."""

from __future__ import annotations

import pytest

from medusa_apar.train.structure import extract, flatten

AFTER = "\n\nThen restart it. The rest follows.\n\nAsk us anything. We are here all day.\n\nGood luck. Come back soon."

CONFIGURATION = {
    "YAML": "services:\n  web:\n    image: nginx\n    ports:\n      - 80:80",
    "flat YAML": "title: Birds\nlayout: page\ndraft: true",
    "YAML with capitals": "Resources:\n  Bucket:\n    Type: AWS::S3::Bucket\n    Name: birds",
    "front matter": "---\ntitle: Birds\nlayout: page\n---",
    "INI": "[core]\neditor = vim\n; the pager\npager = less",
    "TOML": "[tool.black]\nline-length = 88",
    "dotenv": "export HOST=localhost\nPORT=5432",
    "CSV": "name,age,town\nAnna,3,Ulm\nBen,4,Bonn",
    "CSV with quotes": '"name","note"\n"Anna","tall, blond"\n"Ben","short"',
    "CSV with semicolons": "name;age;town\nAnna;3;Ulm\nBen;4;Bonn",
    "tabs": "name\tage\nAnna\t3\nBen\t4",
    "JSON": '{"name": "Anna", "age": 3}',
    "an array": '[{"name": "Anna"}, {"name": "Ben"}]',
    "XML": "<note><to>Anna</to></note>",
}


@pytest.mark.parametrize("block", CONFIGURATION.values(), ids=CONFIGURATION.keys())
def test_configuration_and_data(block: str) -> None:
    assert extract(AFTER.lstrip()) is not None
    assert extract(f"Save this:\n\n{block}{AFTER}") is None


TURNS = (
    ("Anna", "Did you see it? Tell me."),
    ("Ben", "No. I was late."),
    ("Anna", "It stood there. For an hour."),
    ("Ben", "Next time. I promise."),
)
DIALOGUES = {
    "names": "\n\n".join(f"{name}: {words}" for name, words in TURNS),
    "bold names": "\n\n".join(f"**{name}:** {words}" for name, words in TURNS),
    "lines": "\n".join(f"{name.upper()}: {words}" for name, words in TURNS),
    "bullets": "\n".join(f"- {name}: {words}" for name, words in TURNS),
    "directions": "\n\n".join(f"{name} (whispering): {words}" for name, words in TURNS),
    "times": "\n\n".join(f"[10:0{at}] {name}: {words}" for at, (name, words) in enumerate(TURNS)),
    "a screenplay": "\n\n".join(f"{name.upper()}\n{words}" for name, words in TURNS),
    "letters": "\n\n".join(f"{'AB'[at % 2]}: {words}" for at, (_, words) in enumerate(TURNS)),
    "numbered speakers": "\n".join(f"Person {'AB'[at % 2]}: {words}" for at, (_, words) in enumerate(TURNS)),
    "Chinese": (
        "安娜：你看见了吗？我很好奇。\n\n本：没有。我又迟到了。\n\n安娜：它站了一小时。它没动。\n\n本：下次我早点来。我保证。"
    ),
    "dashes": "\n\n".join(f"— {words}" for _, words in TURNS),
    "direct speech": (
        '"Did you see it?" asked Anna. She leaned in.\n\n"No," said Ben. He shrugged.\n\n'
        '"A pity." She sighed. It was late.'
    ),
    "German direct speech": (
        "„Hast du ihn gesehen?“, fragte sie. Sie kam.\n\n„Nein“, sagte er. Er ging.\n\n"
        "„Schade.“ Sie blieb. Es war spät."
    ),
    "around it": (
        "Here is one. I hope it helps.\n\n" + "\n\n".join(f"{n}: {w}" for n, w in TURNS) + "\n\n"
        "Tell me. I can write more."
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", DIALOGUES.values(), ids=DIALOGUES.keys())
def test_dialogue(text: str) -> None:
    assert extract(text) is None


COUPLETS = (
    "The tide goes out at four. It goes.\nIt leaves a silver floor that glows.",
    "The gulls come down to eat. They stay.\nThey run along the sand all day.",
    "The moon looks on. It never ends.\nIt looks at all of us, my friends.",
)
VERSE = {
    "stanzas": "\n\n".join(COUPLETS),
    "one stanza": "\n".join(COUPLETS),
    "words around it": "\n\n".join(["Here is a poem. I like it.", *COUPLETS, "Say so if you like it. I have more."]),
    "hard line breaks": "  \n\n".join(couplet.replace("\n", "  \n") for couplet in COUPLETS),
    "long lines": "\n\n".join(couplet.replace(".", ", as we all know.") for couplet in COUPLETS),
    "lyrics": "\n\n".join(f"[Verse {n}]\n{couplet}" for n, couplet in enumerate(COUPLETS, start=1)),
    "bold parts": "\n\n".join(f"**Chorus**\n{couplet}" for couplet in COUPLETS),
}


@pytest.mark.parametrize("text", VERSE.values(), ids=VERSE.keys())
def test_verse(text: str) -> None:
    assert extract(text) is None


SEQUENCES = {
    "chess": "1. d4 Nf6. White starts.\n2. c4 g6. Black prepares.\n3. Nc3 Bg7. Both develop.",
    "one side": "1. d4: White opens. It is common.\n2. Nf3: the knight. It attacks.\n3. O-O: the king. It hides.",
    "chess in words": "1. White plays d4. A pawn.\n2. Black answers d5. Another.\n3. White takes it. A gain.",
    "Go": "1. D4 Q16. Corners.\n2. Q4 D16. More corners.\n3. K10 C3. The middle.",
    "draughts": "1. 11-15 23-19. Open.\n2. 8-11 22-17. Go on.\n3. 11-16 24-20. Fight.",
    "inferences": (
        "1. Assume that n is odd. One is left over.\n2. Therefore its square is odd. One is left over.\n"
        "3. It is so. Done."
    ),
    "steps by number": (
        "Proof.\n\n1. Suppose there is an end. Go there.\n2. By step 1 we stand there. Look up.\n"
        "3. By step 2 more is above. That is no end."
    ),
    "German proof": (
        "1. Sei n gerade. Es hat eine Hälfte.\n2. Aus Schritt 1 folgt, dass man teilen kann. Gut.\n"
        "3. Somit gilt es. Fertig."
    ),
    "Chinese proof": "1. 设n为偶数。它有一半。\n2. 由步骤1可知，可以平分。很好。\n3. 因此结论成立。完毕。",
    "paragraphs of a proof": (
        "Let n be odd. One is left.\n\nBy the lemma it has no half. So it stays.\n\n"
        "Hence it is so. The proof is done."
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", SEQUENCES.values(), ids=SEQUENCES.keys())
def test_steps_that_build_upon_each_other(text: str) -> None:
    assert extract(text) is None


LISTS = {
    "placeholders": "1. Name: write <your name> here.\n2. Day: write <DD-MM> here.\n3. Town: write <town, land>.",
    "keys": "1. <Enter>: goes on.\n2. <Tab>: jumps.\n3. <Esc>: leaves.",
    "autolinks": "1. Guide: see <https://birds.example/a>.\n2. Mail: ask <me@birds.example>.\n3. News: read on.",
    "prices": "1. Reed Inn: quiet, $$ a night.\n2. Hedge Inn: loud, $$$ a night.\n3. Road Inn: cheap, $ a night.",
    "prices alone": "- Reed Inn ($$): quiet.\n- Hedge Inn ($$$): loud.\n- Road Inn ($$): fine.",
    "prices in one line": "1. Inns: Reed $$, Hedge $$.\n2. Bars: Reed $$, quiet; Road $$, loud.\n3. Cafes: none.",
    "pros and cons": (
        "**Heron**\nPros: tall. Calm.\nCons: shy.\n\n**Wren**\nPros: loud. Brave.\nCons: small.\n\n"
        "**Crow**\nPros: clever."
    ),
    "questions and answers": (
        "Q: Is it tall?\nA: Yes. I saw it.\n\nQ: Is it shy?\nA: You bet. It hid.\n\nQ: Is it rare?\n"
        "A: No. I see many."
    ),
    "fields that come back": (
        "Reed Inn\n- Place: Ulm. Near you.\n- Price: 40.\n\nHedge Inn\n- Place: Bonn. Near me.\n"
        "- Price: 50."
    ),
    "steps of a recipe that name one": (
        "1. Beat the eggs. Use a fork.\n2. Add flour. Stir.\n3. Pour the dough from step 2. Wait."
    ),
    "a timetable": (
        "**Monday:**\nRunning - thirty minutes\n\n**Tuesday:**\nRowing - twenty minutes\n\n**Sunday:**\n"
        "No sports"
    ),
    "questions below headings": (
        "**Reeds**\n- Question: is it wet?\n- Idea: ask me.\n\n**Hedges**\n- Question: is it dry?\n"
        "- Idea: look."
    ),
    "patterns of dots": (
        "1. A heart:\n\nDots 1-4-1\nDots 2-4-2\n\n2. A face:\n\nDots 1-1-1\nDots 1-1-2\n\n"
        "3. A line:\n\nDots 1-1-1\nDots 2-1-1"
    ),
    "vitamins": "1. Vitamin b6: it helps.\n2. Vitamin b12: it helps, too.\n3. Vitamin c: it helps most.",
    "commas": "- Reeds: herons, rails, coots\n- Hedges: wrens, robins, tits\n- Roads: crows, rooks, daws",
    "a letter": (
        "Dear Ms. Lind,\n\nThank you. It is kind.\n\nI accept. The terms suit me.\n\n"
        "I start in May. Please confirm.\n\nYours,\nAnna Berg"
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", LISTS.values(), ids=LISTS.keys())
def test_what_only_looks_like_markup_or_dialogue_is_split(text: str) -> None:
    tree = extract(text)
    assert tree is not None
    assert flatten(tree) == text


class TestReasoning:
    ANSWER = "1. Heron: tall.\n2. Wren: small.\n3. Crow: black."

    @pytest.mark.parametrize(
        "reasoning",
        [
            "<think>\nThree birds.\n\n1. Heron: yes.\n2. Wren: yes.\n</think>\n\n",
            "<thinking>Three birds.</thinking>\n",
            "Three birds, as x = 1 + 2.\n</think>\n\n",
            "[THINK]Three birds.[/THINK]",
            "<think>One.</think><think>Two.</think>",
        ],
    )
    def test_it_is_part_of_the_first_root(self, reasoning: str) -> None:
        tree = extract(reasoning + self.ANSWER)
        assert tree is not None
        assert [node.text for node in tree.reading_order()] == [
            f"{reasoning}1. Heron:", " tall.", "\n2. Wren:", " small.", "\n3. Crow: black.",
        ]  # fmt: skip

    def test_reasoning_that_is_cut_off_is_whole(self) -> None:
        assert extract(f"<think>\n{self.ANSWER}") is None


class TestUnderlinedHeadings:
    @pytest.mark.parametrize("line", ["===", "--------"])
    def test_sections(self, line: str) -> None:
        text = (
            f"Plan\n{line}\n\nWrite it. Ask.\n\nWhat to buy?\n{line}\nBread. Take bags.\n\nCook\n{line}\n\nEat. Rest."
        )
        tree = extract(text)
        assert tree is not None
        assert [node.text for node in tree.reading_order()] == [
            f"Plan\n{line}", "\n\nWrite it. Ask.", f"\n\nWhat to buy?\n{line}", "\nBread. Take bags.",
            f"\n\nCook\n{line}\n\nEat. Rest.",
        ]  # fmt: skip

    def test_a_rule_below_a_paragraph_is_none(self) -> None:
        text = "It is so, as we have seen.\n---\nGo on. Now.\n\nIt is so, again.\n---\nStop. Then.\n\nBye. Now."
        tree = extract(text)
        assert tree is not None
        assert tree.text == "It is so, as we have seen."
