"""What items of lists begin with: numbers, letters, labels and bullets, in the ways that people write them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from .rules import Rule

_PLAIN_BULLET = "[-*+•◦▪‣⁃∙·–»›]"
_PICTOGRAPH = r"[←-⇿■-◿☀-➿⟰-⟿⤀-⥿⬀-⯿\U0001F300-\U0001FAFF]"
_CIRCLED = "①-⒛❶-➓㈠-㈩㊀-㊉"
_SIGN = rf"(?:[・･]|{_PICTOGRAPH}[\uFE0E\uFE0F\U0001F3FB-\U0001F3FF]*(?:\u200d{_PICTOGRAPH}\uFE0F?)*|[-=]{{1,2}}>)"
_HAN = "[一二三四五六七八九十]{1,3}"
_CJK = "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
_NUMERAL = rf"(?:\d{{1,3}}|{_HAN}|[IVX]{{1,5}}|[A-Z]|(?i:one|two|three|four|five|six|seven|eight|nine|ten))"
_AFTER = r"(?=[ \t*_])"
"""What follows a marker: a blank, or the end of emphasis."""

BULLET_LINE = rf"{_PLAIN_BULLET}[ \t]"
"""The beginning of a line that is an item of bullets, wherever it stands."""
ITEM_LINE = rf"[ \t]*(?:{BULLET_LINE}|{_SIGN}|\(?\w{{1,3}}[.):][ \t])"
"""The beginning of a line that may be an item, in the most common forms."""

_FORMS = {
    "bullet": rf"{_PLAIN_BULLET}(?=[ \t])",
    "box": r"\[[ xX✓✔]?\](?=[ \t])",
    "keycap": r"(?:(?:\d\uFE0F?\u20E3)+|🔟)(?:[.):–-](?=[ \t]))?",
    "sign": _SIGN,  # ✓  →  🔹
    "circled": f"[{_CIRCLED}]",
    "section": rf"\d{{1,2}}(?:\.\d{{1,2}})+\.?{_AFTER}",  # 1.1
    "number": rf"\d{{1,3}}[*_]{{0,3}}"
    rf"(?:(?:\\?[ ]?[.):]|\.[-–)]|\)\.|[º°]\.?){_AFTER}|[.)](?=[^\W\d_])|[、．）：](?!\d))",
    "dashed": rf"\d{{1,3}}[ ]?[-–—/]{_AFTER}",  # 1 -
    "hash": rf"(?:\#|№[ ]?)\d{{1,3}}[.:)]?{_AFTER}",  # #1
    "bracketed": rf"[(（](?:\d{{1,3}}|[^\W\d_]|[ivx]{{2,5}}|[IVX]{{2,5}}|{_HAN})[)）]"  # (1) (a) (iv) （一）
    rf"|\[\d{{1,3}}\]{_AFTER}",
    "lettered": rf"(?:[^\W\d_]|[ivx]{{2,5}}|[IVX]{{2,5}})(?:[.)]{_AFTER}|[、．）])",  # A. a) iv.
    "han": rf"{_HAN}(?:[、．）：]|[.:)]{_AFTER})",  # 一、
    "label": rf"(?:[^\s\d.,:;!?()*\#|<>\"'/\\-]{{2,20}}\.?[ ]\#?|{_CJK}{{1,6}}){_NUMERAL}(?:[-–]\d{{1,3}})?[ ]?"
    rf"(?:[.):–—-]{_AFTER}|[：、）]|(?=[*_]{{1,3}}[ \t]))",  # Step 1:  Étape 1 :  步骤一：
    "ordinal": rf"第[ ]?(?:\d{{1,3}}|{_HAN})[ ]?{_CJK}{{0,3}}(?:[：、，]|[:.]{_AFTER})",  # 第一步：
    "counted": rf"\d{{1,3}}[^\W\d_]{{0,3}}[ ]?[^\W\d_]{{2,12}}[ ]?(?::{_AFTER}|：)",  # 1단계:  1st step:
}
"""How markers of each form are written, emphasis around them aside."""
_FORM = "|".join(f"(?P<{form}>{pattern})" for form, pattern in _FORMS.items())
_MARKER = re.compile(rf"^(?P<indent>[ \t]*)(?:[*_]{{1,3}}(?![\s*_]))?(?:{_FORM})[*_]{{0,3}}[ \t]*(?=\S)", re.MULTILINE)

_UNNUMBERED = ("bullet", "box", "sign")
_COUNTED_ON = ("section", "dashed", "hash", "bracketed", "lettered", "han", "ordinal", "counted")
"""Forms with which lines of prose begin, too. They are markers where their numbers go on from one."""

_ORDINAL = {
    "bracketed": re.compile(r"[^\[\]()（）]+"),
    "section": re.compile(r"\d+(?=\.?$)"),
    "lettered": re.compile(r"[^\W\d_]+"),
    "label": re.compile(rf"{_NUMERAL}(?=(?:[-–]\d{{1,3}})?[ ]?[.):–—：、）-]?$)"),
}
"""Where the number of a marker is, by form."""
_ANY_ORDINAL = re.compile(rf"\d+|{_HAN}|[{_CIRCLED}]|🔟")
_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_HAN_DIGITS = {digit: value for value, digit in enumerate("一二三四五六七八九", start=1)}
_ROMAN = re.compile(r"x{0,3}(?:ix|iv|v?i{0,3})", re.IGNORECASE)
_ROMAN_DIGITS = {"i": 1, "v": 5, "x": 10}
_ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz",
    "абвгдежзиклмнопрстуфхцчшщэюя",
    "αβγδεζηθικλμνξοπρστυφχψω",
    "אבגדהוזחטיכלמנסעפצקרשת",
    "أبجدهوزحطيكلمنسعفصقرشت",
    "कखगघङचछजझञ",
    "กขคงจฉชซฌญ",
    "가나다라마바사아자차카타파하",
    "アイウエオカキクケコ",
    "甲乙丙丁戊己庚辛壬癸",
    "壹贰叁肆伍陆柒捌玖拾",
)
"""Letters in the order in which items are lettered."""


@dataclass(frozen=True, slots=True)
class Marker:
    """What an item begins with: `text[start:end]`.

    Attributes:
        indent: columns before it.
        form: how it is written, a key of `_FORMS`.
        kind: the form and how its number is written; items of one list are of one kind.
        ordinal: its number, from 1; None of a bullet.
    """

    start: int
    end: int
    indent: int
    form: str
    kind: str
    ordinal: int | None

    @property
    def rule(self) -> Rule:
        """Which rule makes an item of it."""
        return Rule.BULLETS if self.ordinal is None else Rule.ORDERED

    def comes_before(self, other: Marker | None) -> bool:
        """Whether the number of another marker is the next one."""
        return other is not None and self.ordinal is not None and other.ordinal == self.ordinal + 1


def find_markers(text: str, start: int, end: int, rules: Collection[Rule]) -> list[Marker]:
    """Markers at the beginning of lines of `text[start:end]`, in order, of those that some rules take for items."""
    found: list[Marker] = []
    latest: dict[tuple[str, int], int] = {}
    for match in _MARKER.finditer(text, start, end):
        form = str(match.lastgroup)
        if form == "sign" and _ends_line(match[form], text, match.end(), end):
            continue  # the signs decorate the line
        indent = len(match["indent"].expandtabs(4))
        kind, ordinal = (form, None) if form in _UNNUMBERED else _numbered(form, match[form], indent, latest)
        marker = Marker(match.start(), match.end(), indent, form, kind, ordinal)
        if marker.rule in rules:
            found.append(marker)
    return _listed(found)


def _ends_line(sign: str, text: str, start: int, end: int) -> bool:
    line_end = text.find("\n", start, end)
    return text[start : end if line_end < 0 else line_end].rstrip().endswith(sign)


def _numbered(form: str, sign: str, indent: int, latest: dict[tuple[str, int], int]) -> tuple[str, int]:
    """Kind and number of a marker.

    Args:
        form: of the marker.
        sign: the marker itself.
        indent: columns before it.
        latest: the latest number of each kind and indentation, which tells the letter i from the Roman numeral.
    """
    token = _ORDINAL.get(form, _ANY_ORDINAL).search(sign)
    assert token is not None  # every form has one
    text = token[0]
    if form == "label":
        form = f"label {sign[: token.start()].strip(' #').casefold()}"
    elif form == "keycap":
        text = "10" if text == "🔟" else "".join(digit for digit in sign if digit.isdigit())
    kind, ordinal = f"{form} number", _number(text)
    if ordinal is None:
        kind, ordinal = f"{form} letter {text[0].isupper()}", _letter(text)
        roman = _roman(text)
        if roman is not None and (ordinal is None or latest.get((kind, indent)) != ordinal - 1):
            kind, ordinal = f"{form} roman {text[0].isupper()}", roman
    latest[kind, indent] = ordinal or 0
    return kind, ordinal or 0


def _number(text: str) -> int | None:
    """The value of digits, Chinese numerals, circled numbers and English words."""
    if text.isdecimal():
        return int(text)
    if text.casefold() in _WORDS:
        return _WORDS.index(text.casefold()) + 1
    if len(text) == 1 and not text.isalpha():
        return int(unicodedata.numeric(text, 0))
    if set(text) <= _HAN_DIGITS.keys() | {"十"}:
        tens, ten, units = text.rpartition("十")
        return (10 * _HAN_DIGITS.get(tens, 1) if ten else 0) + _HAN_DIGITS.get(units, 0)
    return None


def _letter(text: str) -> int | None:
    places = (alphabet.find(text.lower()) for alphabet in _ALPHABETS if len(text) == 1)
    return next((place + 1 for place in places if place >= 0), None)


def _roman(text: str) -> int | None:
    if not _ROMAN.fullmatch(text):
        return None
    digits = [_ROMAN_DIGITS[digit] for digit in text.lower()]
    return sum(-digit if digit < max(digits[at:]) else digit for at, digit in enumerate(digits))


def _listed(markers: Sequence[Marker]) -> list[Marker]:
    """The markers of lists: those of some forms go on from one, and the word of a label occurs again."""
    kinds = Counter(marker.kind for marker in markers)
    runs: dict[tuple[str, int], list[list[Marker]]] = defaultdict(list)
    for marker in markers:
        found = runs[marker.kind, marker.indent]
        if found and found[-1][-1].comes_before(marker):
            found[-1].append(marker)
        elif marker.ordinal == 1:
            found.append([marker])
    counted = {marker.start for found in runs.values() for run in found if len(run) > 1 for marker in run}

    def belongs(marker: Marker) -> bool:
        if marker.form == "label":
            return kinds[marker.kind] > 1
        return marker.form not in _COUNTED_ON or marker.start in counted

    return [marker for marker in markers if belongs(marker)]
