"""Help for common mistakes: a table of wrong lines, as people write them who know other languages,
and of what to type instead. `explain` asks here when its own sentence, made from the grammar, would
not help.
"""

import re
from collections.abc import Set
from typing import NamedTuple


class Hint(NamedTuple):
    """One row. The groups of the pattern fill the braces of the help."""

    where: str  # all that must be true of the place: `start` or `end` of a statement, `step`
    wrong: str  # how the line looks, with `▸` before the word that does not fit
    help: str


# The first row that fits counts. `tests/language/test_parse.py` has a line for each.
HINTS = (
    Hint("", r"▸(?://|/\*)", "a comment begins with `#`"),
    # ---- Parts
    Hint(
        "",
        r"\bsplit F\b.* \bif\b.*▸else\b",
        "each part says when it is there: `a if s == 0, b if s != 0`",
    ),
    Hint("", r"\bsplit F\b.*\* *▸(\w+)", "a group stands in parentheses: `2 * ({0}, …)`"),
    Hint(
        "",
        r"\bsplit F\b[^(]* into (?:.*, *)?\([^()]*▸,",
        "a group says how often it is there: `2 * (a, b)`",
    ),
    # ---- Where a statement should begin or end
    Hint("start", r"▸([A-Za-z_]\w*) *=(?!=)", "to name a value: `let {0} = …`"),
    Hint("start step", r"▸[fbiw]\b", "operations are capital letters: `F`, `B`, `I` and `W`"),
    Hint(
        "start step",
        r"▸(?:while|loop|foreach|do)\b",
        "loops are `repeat n {{ … }}` and `for i in a .. b {{ … }}`",
    ),
    Hint("end step", r"▸,", "separate operations with `;`"),
    Hint("end", r"▸,", "no comma stands between statements"),
    # ---- Inside one
    Hint("", r"\b(?:let|param) +▸\d", "names begin with a letter"),
    Hint("", r"\b(?:let|param) +(\w+) *▸- *(\w+)", "names have no `-`: `{0}_{1}`"),
    Hint("", r"\brepeat (\w+) +▸([FBIW])\b", "`repeat {0} {{ {1} }}`"),
    Hint("", r"\border ▸(\w+) *\{", "`order rank {0} {{`"),
    Hint("", r"\border rank ▸\{", "the rank needs a name: `order rank r {{`"),
    Hint("", r"\brange *▸\(", "a range is `a .. b`, without b"),
    Hint("", r"\bin (\w+) *▸\{", "a range is `a .. b`, without b: `0 .. {0}`"),
    Hint("", r"\brepeat (\w+) *▸times\b", "`repeat {0} {{ … }}`"),
    Hint("", r"\d *▸[kmgtKMGT][iI]?[bB]?\b", "sizes are in `KiB`, `MiB`, `GiB` or `TiB`"),
    Hint("", r"\d▸[eE]\d*\b", "an exponent is a whole number: `1.2e-05`"),
    Hint("", r"\b(\d+) *▸((?![FBIW]\b)[A-Za-z_]\w*)", "to multiply: `{0} * {1}`"),
    Hint("", r"\b(\d+) *▸\(", "to multiply: `{0} * (…)`"),
    Hint(
        "",
        r"[\w\]] *▸\(",
        "operations are written `F main[0, 3]`; the functions are `min`, `max`, `abs`, `ceil`, "
        "`floor` and `len`",
    ),
    Hint("", r"//.*▸", "a comment begins with `#`: `//` divides"),
)


def hint(where: Set[str], before: str, rest: str) -> str | None:
    """What to type instead of the word that begins the `rest` of its line."""
    line = f"{before[-200:]}▸{rest[:200]}"
    for row in HINTS:
        match = re.search(row.wrong, line) if where >= set(row.where.split()) else None
        if match:
            return row.help.format(*match.groups())
    return None
