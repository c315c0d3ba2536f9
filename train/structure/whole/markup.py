"""Code, math, tables, quotes and other markup."""

from __future__ import annotations

import re

_BLOCK = re.compile(
    r"""^[^\S\n]*(?:
    [\[{][^\S\n]*(?:$|["\[{].*[\]}],?[^\S\n]*$)    # JSON
    |\|.*\|[^\S\n]*$                      # tables
    |>                                    # quotes
    |\$\$[^\S\n]*$                        # LaTeX
    )
    |^[ ]{4,}\S.*[;{}][^\S\n]*$           # indented code
    """,
    re.MULTILINE | re.VERBOSE,
)
_FENCE = re.compile("```|~~~")
_LATEX = re.compile(
    r"""\\(?:\(|\[|begin\{|frac\b)
    # $$x$$, but not a price of $$
    |(?<!\$)\$\$(?:(?=[^\s$])[^$\n]*[\w\\][^$\n]*(?<!\s)|[ \t]*[^$\n]*[=\\^_][^$\n]*)\$\$(?!\$)
    """,
    re.VERBOSE,
)
_EQUATION = re.compile(
    r"""\w[ ]?(?:[=≈≤≥>]|<(?![a-zA-Z][^<>\n]*\w>))[ ]?[-−+(|√]*[\w.]+[ ]?[-−+*/^×÷·=<>|][ ]?\S     # x = 2 + y
    |[\w)\]][ ]?[-−+*/^×÷·][ ]?[\w(|]+[ ]?[=≈][ ]?[\w$(|−-]        # 2 + y = x
    |^[^\S\n]*[\w^]{1,4}(?:\([^)\n]{1,9}\))?[ ]?[=≈]               # f(x) =
    """,
    re.MULTILINE | re.VERBOSE,
)
_TAGS = "body|br|div|em|h[1-6]|head|hr|html|img|li|ol|p|script|span|strong|table|td|th|tr|ul"
"""Tags of HTML that are not placeholders. A placeholder is a word, such as `<name>`."""
_HTML = re.compile(
    rf"""</[a-zA-Z][\w:.-]*[ ]*>
    |<(?:{_TAGS})[ ]?>
    |<[a-zA-Z][\w:.-]*(?:[ ][^<>\n]*)?/>
    |<[a-zA-Z][\w:.-]*[ ][^<>\n]*=[^<>\n]*>
    |<!--|<![A-Z]|<\?xml
    """,
    re.VERBOSE,
)
_INLINE = (("`~", _FENCE), ("\\$", _LATEX), ("=≈≤≥<>", _EQUATION), ("<", _HTML))
"""Characters, and the pattern that is searched where one of them occurs."""


def has_markup(text: str) -> bool:
    """Whether a text holds code, math, tables, quotes, HTML or JSON."""
    return _BLOCK.search(text) is not None or any(
        any(sign in text for sign in signs) and pattern.search(text) is not None for signs, pattern in _INLINE
    )
