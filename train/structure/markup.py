"""Text that is never split: code, math, tables, quotes and other markup."""

from __future__ import annotations

import re

_NEVER_SPLIT = re.compile(
    r"""```|~~~                                             # fenced code
    |^[ ]{4,}\S.*[;{}][^\S\n]*$                             # indented code
    |^[^\S\n]*[\[{][^\S\n]*$                                # JSON
    |\$\$|\\\(|\\\[|\\begin\{|\\frac\b                     # LaTeX
    |\w[ ]?[=≈≤≥<>][ ]?[-−+(|√]*[\w.]+[ ]?[-−+*/^×÷·=<>|][ ]?\S     # x = 2 + y
    |[\w)\]][ ]?[-−+*/^×÷·][ ]?[\w(|]+[ ]?[=≈][ ]?[\w$(|−-]        # 2 + y = x
    |^[^\S\n]*[\w^]{1,4}(?:\([^)\n]{1,9}\))?[ ]?[=≈]       # f(x) =
    |^[^\S\n]*\|.*\|[^\S\n]*$                               # tables
    |</?[a-zA-Z][^<>\n]*>                                   # HTML
    |^[^\S\n]*>                                            # quotes
    """,
    re.MULTILINE | re.VERBOSE,
)


def is_splittable(text: str) -> bool:
    """Whether a text is free of code, math and markup."""
    return _NEVER_SPLIT.search(text) is None
