"""Where sentence splitters end the first sentence of list items, beside our own rules.

    pip install pysbd syntok sentence-splitter
    python -m benchmarks.sentence_ends responses-train.jsonl.xz

draws 500 items of lists, each from another response and with a stop before its end, and prints for every splitter how
many of them it ends where sentencex with our rules does. `--show` prints the items on which any of them differs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from random import Random

import pysbd
import sentencex
import syntok.segmenter
from sentence_splitter import SentenceSplitter

from medusa_apar.argument_types import ArgumentParser
from medusa_apar.train.rows.responses import BadRows, read_responses
from medusa_apar.train.structure.markers import find_markers
from medusa_apar.train.structure.normalization import NormalizedText
from medusa_apar.train.structure.rules import Rule
from medusa_apar.train.structure.sentences import first_sentence_end
from medusa_apar.train.structure.whole import stays_whole

ITEMS = 500
SEED = 7
_STOP_INSIDE = re.compile(r"[.!?…][\"'”’)\]*_]*\s+\S")


def items(file: str) -> Iterator[str]:
    """First lines of items, without their markers, in random order; one of each response, and none twice."""
    random = Random(SEED)
    texts = [NormalizedText.of(response.response).text for response in read_responses(file, BadRows())]
    random.shuffle(texts)
    seen = set()
    for text in texts:
        if stays_whole(text):
            continue
        markers = find_markers(text, 0, len(text), {Rule.ORDERED, Rule.BULLETS})
        random.shuffle(markers)
        for marker in markers:
            line = text[marker.end :].partition("\n")[0]
            if _STOP_INSIDE.search(line) and line not in seen:
                seen.add(line)
                yield line
                break


def splitters() -> dict[str, Callable[[str], int]]:
    """Functions from a text to the index after its first sentence."""
    pragmatic = pysbd.Segmenter(language="en", clean=False)
    koehn = SentenceSplitter(language="en")

    def syntok_end(text: str) -> int:
        last = next(sentence for paragraph in syntok.segmenter.analyze(text) for sentence in paragraph)[-1]
        return int(last.offset) + len(last.value)

    return {
        "sentencex and our rules": lambda text: first_sentence_end(text, 0, len(text)) or len(text.rstrip()),
        "sentencex": lambda text: len(sentencex.segment("en", text)[0].rstrip()),
        "pysbd": lambda text: len(pragmatic.segment(text)[0].rstrip()),
        "syntok": syntok_end,
        "sentence-splitter": lambda text: len(koehn.split(text)[0].rstrip()),
    }


def main() -> None:
    parser = ArgumentParser(description="Compare sentence splitters on list items.")
    parser.add_argument("file", help="responses, in any format that training reads")
    parser.add_argument("--show", action="store_true", help="print the items on which any splitter differs")
    arguments = parser.parse_args()
    compared = splitters()
    own = next(iter(compared))
    drawn = [item for item, _ in zip(items(arguments.file), range(ITEMS), strict=False)]
    ends = [{name: end(item) for name, end in compared.items()} for item in drawn]
    for name in compared:
        print(f"{name}: {sum(each[name] == each[own] for each in ends)} of {len(drawn)}")
    for item, each in zip(drawn, ends, strict=True):
        if arguments.show and len(set(each.values())) > 1:
            print("\n".join([item, *(f"    {name}: {item[:end]!r}" for name, end in each.items())]))


if __name__ == "__main__":
    main()
