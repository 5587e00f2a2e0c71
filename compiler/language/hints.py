"""Help for common mistakes: a table of wrong lines, as people write them who know other languages,
and of what to type instead. `explain` asks here when its own sentence, made from the grammar, would
not help.
"""

import re
from collections.abc import Iterable, Set
from typing import NamedTuple


class Hint(NamedTuple):
    """One row. The groups of the pattern fill the braces of the help."""

    where: str  # all that must be true of the place: `start` or `end` of a statement, `step`
    wrong: str  # how the line looks, with `▸` before the word that does not fit
    help: str


NUMBER = r"(?<![\w.])(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"

# The first row that fits counts. `tests/language/test_parse.py` has a line for each.
HINTS = (
    Hint("", r"▸(?://|/\*)", "a comment begins with `#`"),
    # ---- Where a statement should begin or end
    Hint(
        "start",
        r"^ *▸(?:\d+[A-Z]|,|\[|\{)",
        "is it another system's table? `--from SYSTEM` reads it, such as `--from torch-csv`",
    ),
    Hint("start", r"▸([A-Za-z_]\w*) *=(?!=)", "to name a value: `let {0} = …`"),
    Hint("start step", r"▸[fbiw]\b", "operations are capital letters: `F`, `B`, `I` and `W`"),
    Hint(
        "start step",
        r"▸(?:while|loop|foreach|do)\b",
        "loops are `repeat n {{ … }}` and `for i in a .. b {{ … }}`",
    ),
    Hint("end step", r"▸,", "separate operations with `;`"),
    Hint("end", r"(?<![\w.])(\d+)▸,(\d+)", "a decimal has a point: `{0}.{1}`"),
    Hint("end", r"▸,", "no comma stands between statements"),
    # ---- Parts
    Hint(
        "", r"\bcost +▸([A-Za-z_]\w*)", "of an operation, `cost F = …`; of a part, `cost F.{0} = …`"
    ),
    Hint(
        "",
        r"[FBIW]\??\.\w+ on ▸\w+",
        "on which stream a part runs, `split F into` says, and nothing else",
    ),
    Hint("", r"([FBIW]\??\.\w+)(?: *\[[^\]]*\])? *▸layer (\w+)", "`{0}[layer {1}]`"),
    Hint("", r"\blayer *▸[=\]]", "a number says which: `F.mlp[layer 0]`"),
    Hint("", r"([FBIW])\.(\w+)▸\?", "`{0}?.{1}`"),
    Hint("", r"([FBIW]\??\.\w+) *▸\(", "`{0}[0, 3]`"),
    Hint("", r"([FBIW])\.▸", "a part has a name, `{0}.mlp`; `{0}` stands for all of them"),
    Hint("", r"([FBIW]\??\.\w+)▸\.", "one part stands behind an operation: `{0}`"),
    Hint(
        "",
        r"\brule ([FBIW](?:\.\w+)?) after ▸",
        "a rule names operations: `rule {0}[s, m] after …`",
    ),
    # ---- Inside one
    Hint("", r"\b(?:let|param) +▸\d", "names begin with a letter"),
    Hint("", r"\b(?:let|param) +(\w+) *▸- *(\w+)", "names have no `-`: `{0}_{1}`"),
    Hint("", r"\brepeat (\w+) +▸([FBIW])\b", "`repeat {0} {{ {1} }}`"),
    Hint("", r"\border ▸(\w+) *\{", "`order rank {0} {{`"),
    Hint("", r"\border rank ▸\{", "the rank needs a name: `order rank r {{`"),
    Hint("", r"\brange *▸\(", "a range is `a .. b`, without b"),
    Hint("", r"\bin (\w+) *▸\{", "a range is `a .. b`, without b: `0 .. {0}`"),
    Hint("", r"\brepeat (\w+) *▸times\b", "`repeat {0} {{ … }}`"),
    Hint(
        "",
        rf"{NUMBER} *▸(?:[nuµm]?s|secs?|seconds?|min|minutes?|h|hours?)\b",
        "times have no unit, and all are in one: `{0}`",
    ),
    Hint(
        "",
        r"\d *▸(?:[kmgtpKMGTP](?:[iI]?[bB])?|[bB]|[bB]ytes?)\b",
        "sizes are in `KiB`, `MiB`, `GiB` or `TiB`",
    ),
    Hint("", r"\d▸[eE]\d*\b", "an exponent is a whole number: `1.2e-05`"),
    Hint("", r"(?<![\w.])(\d+)▸\.(?![.\d])", "a digit stands behind the point: `{0}.0`"),
    Hint("", r"▸\.(\d+)", "a digit stands before the point: `0.{0}`"),
    Hint("", r"\d▸_\d", "a number has digits alone, without `_`"),
    Hint("", r"(?<![\w.])0▸[xXbBoO]\w", "numbers are decimal"),
    Hint("", r"[=(,] *▸\"", "a number stands without quotes; texts stand behind `require`"),
    Hint("", rf"{NUMBER} *▸((?![FBIW]\b)[A-Za-z_]\w*)", "to multiply: `{0} * {1}`"),
    Hint("", rf"{NUMBER} *▸\(", "to multiply: `{0} * (…)`"),
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
    return first_fitting(HINTS, where, f"{before[-200:]}▸{rest[:200]}")


def first_fitting(rows: Iterable[Hint], where: Set[str], line: str) -> str | None:
    """The help of the first of the rows that fits."""
    for row in rows:
        match = re.search(row.wrong, line) if where >= set(row.where.split()) else None
        if match:
            return row.help.format(*match.groups())
    return None
