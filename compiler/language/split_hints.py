"""Help for mistakes in a `split`, which may go over several lines: a table as `hints` has one, of
the statement up to the word that does not fit.
"""

from typing import Any

from lark import Token

from stretto.compiler.language.hints import Hint, first_fitting

FORWARD = r"^split F\b.*"
ITEM = rf"{FORWARD}(?:\binto|,|\() *"  # where a part is named
WORDS = "stages|slice|layer|let|repeat|as|for|in|then|else|queue|next|and|or|not"

LONGEST = 400  # characters that are looked at

# The first row that fits counts. `tests/language/test_split_hints.py` has a line for each.
HINTS = (
    Hint(
        "",
        rf"{FORWARD} \bif\b.*▸else\b",
        "each part says when it is there: `a if s == 0, b if s != 0`",
    ),
    # ---- What is split
    Hint("", r"^split B\b.*\binto\b.*▸", "a backward has two halves: `split B into I, W`"),
    Hint("", r"^split B\b", "`split B into I, W`"),
    Hint("", r"^split microbatch into (\d+) *▸", "`split microbatch into {0} slices`"),
    Hint("", r"^split microbatch\b", "say how many slices: `split microbatch into 4 slices`"),
    Hint(
        "",
        r"^split *▸(?!microbatches\b)",
        "there are `split B into I, W`, `split F into PART, …` and "
        "`split microbatch into 4 slices`",
    ),
    Hint("", r"^split F *▸\.", "each part is named behind `into`: `split F into PART, …`"),
    Hint(
        "",
        r"^split F *▸(?!into|in\b)[A-Za-z_]\w* *(?:\[|into)",
        "the stages of every pipeline are cut alike: `split F into …` names none",
    ),
    Hint(
        "",
        r"^split F *\[ *\w* *▸",
        "one name stands for the stage, and `if` says where a part is: "
        "`split F[s] into a if s == 0, b`",
    ),
    Hint("", r"^split F\b(?!.*\binto\b)", "`split F into PART, …`, a name for each part"),
    Hint(
        "",
        rf"{FORWARD} *▸slices\b",
        "slices are of micro-batches: `split microbatch into 4 slices`",
    ),
    # ---- How a part is named
    Hint(
        "",
        rf"{ITEM}[FBIW]\b.*▸",
        "parts have names of their own, which no operation has: `split F into attention, mlp`",
    ),
    Hint("", rf"{ITEM}▸({WORDS})\b", "`{0}` is a word of the language: give the part another name"),
    Hint(
        "",
        rf"{ITEM}stages\b[^*]*▸",
        "`stages` is a word of the language: give the part another name",
    ),
    Hint("", rf'{ITEM}▸"', "parts are names, without quotes: `split F into attention, mlp`"),
    Hint(
        "", rf"{ITEM}(?:▸\{{|▸\[|\[.*▸)", "parts stand side by side: `a, b`; a group: `2 * (a, b)`"
    ),
    # ---- What stands behind it
    Hint("", rf"{FORWARD}\w *▸[@:]", "a part's stream stands behind `on`: `a on comm`"),
    Hint("", rf"{FORWARD}, *on *▸", "no comma stands before `on`: `a on comm`"),
    Hint("", rf"{FORWARD}, *▸if\b", "no comma stands before `if`: `a if s == 0`"),
    Hint("", rf"{FORWARD}\bon \w+ *▸on\b", "a part runs on one stream"),
    Hint("", rf"{FORWARD}\bif\b[^,]*▸on\b", "`on` stands before `if`: `a on comm if s == 0`"),
    # ---- Groups
    Hint("", rf"{FORWARD}\b(\d+) *\* *▸(\d+)", "one number says how often: `({0} * {1}) * (…)`"),
    Hint("", rf"{FORWARD}\b([A-Za-z_]\w*) *\* *▸(\d+)", "how often comes first: `{1} * ({0})`"),
    Hint("", rf"{FORWARD}\* *▸([A-Za-z_]\w*)", "a group stands in parentheses: `2 * ({0}, …)`"),
    Hint("", rf"{FORWARD}\b(\w+) *▸\(", "a group says how often it is there: `{0} * (…)`"),
    Hint(
        "",
        r"^split F\b[^(]* into (?:.*, *)?\([^()]*▸,",
        "a group says how often it is there: `2 * (a, b)`",
    ),
    # ---- Between parts
    Hint("", rf"{FORWARD}\w *▸(?:[-+/|&]|->|and\b|then\b)", "a comma stands between parts: `a, b`"),
    Hint("end", rf"{FORWARD}[\w)] *▸[A-Za-z_]", "a comma stands between parts: `a, b`"),
    Hint("", rf"{FORWARD}\( *▸\)", "a group has a part at least: `2 * (a)`"),
    Hint("", rf"{ITEM}▸$", "a part's name comes here: `split F into attention, mlp`"),
)


def split_hint(where: set[str], state: Any, text: str, at: int) -> str | None:
    """What to type instead of the word at this position of the text, where the parser reads a
    `split`."""
    first = next(
        (v for v in reversed(state.value_stack) if isinstance(v, Token) and v.type == "SPLIT"), None
    )
    if first is None or first.start_pos is None:
        return None
    end = text.find("\n", at)
    before = " ".join(text[first.start_pos : at].split())
    if len(before) > LONGEST:
        before = f"{before[:60]} … {before[-LONGEST // 2 :]}"
    blank = " " if text[at - 1 : at].isspace() else ""
    return first_fitting(
        HINTS, where, f"{before}{blank}▸{text[at : end if end >= 0 else len(text)]}"
    )
