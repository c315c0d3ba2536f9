"""Where sentences and titles end.

sentencex, a rule-based splitter for some 240 languages, finds the sentences. Our own rules join what it cuts too early:
before a lower-case letter or a digit, after an ellipsis, after a name with an exclamation mark, after an abbreviation
before a name in languages other than English, and in direct speech that names its speaker. Markdown's emphasis is
blanked out for it, because a stop before `**` ends a sentence, too.
"""

from __future__ import annotations

import re

from sentencex import get_sentence_boundaries

SENTENCE_STOP = re.compile(r"[.!?…؟۔।。！？]")
_LONGEST_SENTENCE = 2000
"""Characters that are searched: sentencex takes quadratic time for quotations that are not closed."""
_COLON = re.compile(r":[*_]*(?=\s)|：[*_]*")
_DASH = re.compile(r"[ \t][-–—](?=[ \t])")
_LONGEST_TITLE = 60
"""Characters of a title that ends with a dash, without a quotation at its beginning."""
_QUOTED = re.compile(
    r"""(?<!\w)"[^"\n]*"(?!\w)|“[^“”\n]*”|„[^„“”\n]*[“”]|«[^«»\n]*»|「[^「」\n]*」|『[^『』\n]*』|`[^`\n]*`|\([^()\n]*\)|（[^（）\n]*）"""
)
"""Quotations, code and parentheses, in which no root ends."""

_NO_ABBREVIATION = re.compile(r"[^\"“„«(\[`]*?\b(?:me|art)\.(?=\s+[A-Z])")
"""A sentence up to a last word that sentencex takes for an abbreviation (of Maine and of article)."""
_CLOSING = re.compile(r"[\"'”’»)\]*_]*")
_LATER = re.compile(r"[\s*_\"'“‘„«]*")
_WORD = re.compile(r"\w")
_NO_BLANK = "。！？।۔」』”"
"""Characters that end a sentence without a blank after them."""
_OPEN_END = re.compile(
    r"""(?:\.{2,}|…|\b(?:Yahoo|Jeopardy|Joomla|Wham)!
    |\b(?:approx|max|min|vol|ca|eq|ch|ed|incl|feat|bzw|evtl|ggf|inkl|abs|mgr|sig|dott|avv|exm[oa]|sra|srta|dña|uds?|pág|núm
    |dhr|mevr|bijv|np|tzn|ste|г|ул|им|т\.е)\.
    |\b(?:am|im|der|die|das|dem|den|des|zum|zur|vom|ab|bis|seit)\s\d{1,3}\.)[\"'”’»)\]]*$""",
    re.IGNORECASE | re.VERBOSE,
)
"""Ends after which a sentence goes on."""
_LONGEST_OPEN_END = 16
_SPEAKS = re.compile(
    r"(?:と|って|[问說说道喊叫])|\s+(?:I|[Hh]e|[Ss]he|[Tt]hey|[Ww]e|(?:[Tt]he\s+)?\w+(?:\s[A-Z]\w+)?)\s"
    r"(?:said|says|asked|asks|replied|cried|shouted|whispered|answered|exclaimed|called|muttered|yelled|added)\b"
)
"""Words after direct speech that name its speaker."""


def first_sentence_end(text: str, start: int, end: int) -> int | None:
    """Index after the first sentence of `text[start:end]`; None where no further text follows it."""
    if not SENTENCE_STOP.search(text, start, end):
        return None
    for boundary in get_sentence_boundaries(
        "en", text[start : min(end, start + _LONGEST_SENTENCE)].replace("*", " ").replace("_", " ")
    ):
        first = start + boundary["start_index"]
        stop = first + len(boundary["text"].rstrip())
        if word := _NO_ABBREVIATION.match(text, first, stop):
            stop = word.end()
        stop = _end_of(_CLOSING, text, stop, end)
        if not _WORD.search(text, stop, end):
            return None
        if any(map(str.isalpha, boundary["text"])) and not _goes_on(text, stop, end):
            return stop
    return None


def item_root_end(text: str, start: int, end: int) -> int:
    """Where an item's root ends: after its first colon, its title, its first sentence or its first line."""
    line_end = text.find("\n", start, end)
    line_end = end if line_end < 0 else line_end
    stops = [line_end]
    stops += [colon.end() for colon in _COLON.finditer(text, start, line_end)]
    sentence = first_sentence_end(text, start, line_end)
    if sentence is not None:
        stops.append(sentence)
    quoted = [(quotation.start(), quotation.end()) for quotation in _QUOTED.finditer(text, start, line_end)]
    title = quoted[0][1] if quoted and not text[start : quoted[0][0]].strip("*_ ") else start
    dash = _DASH.search(text, title, min(line_end, title + _LONGEST_TITLE))
    if dash and not _is_aside(text, start, dash, line_end if sentence is None else sentence):
        stops.append(dash.end())
    return min(stop for stop in stops if not any(opened < stop < closed for opened, closed in quoted))


def _end_of(pattern: re.Pattern[str], text: str, start: int, end: int) -> int:
    """Where a match that begins at `start` ends; `start` where there is none."""
    found = pattern.match(text, start, end)
    return start if found is None else found.end()


def _goes_on(text: str, stop: int, end: int) -> bool:
    """Whether a sentence goes on after `stop`, where it seems to end."""
    later = _end_of(_LATER, text, stop, end)
    if text[later].islower() or text[later].isdigit() or not (text[stop].isspace() or text[stop - 1] in _NO_BLANK):
        return True
    if _OPEN_END.search(text, max(0, stop - _LONGEST_OPEN_END), stop):
        return True
    return text[stop - 1] in '"”’»」』' and _SPEAKS.match(text, stop, end) is not None


def _is_aside(text: str, start: int, dash: re.Match[str], end: int) -> bool:
    """Whether a dash opens an aside that another one closes, and does not end a title."""
    if text[start : dash.start()].rstrip().endswith(("*", "_")):
        return False
    dashes = sum(1 for _ in _DASH.finditer(text, dash.start(), end))
    return dashes % 2 == 0 and text[dash.end() : dash.end() + 2].strip().islower()
