"""Pictures and listings of a Program: a file per format, and the table of them here.

In comes a proved Plan; out goes a text, the same on every machine, in which nothing that comes from
a user's file can act. Each format's file has a `draw(view)` that returns the text; the one for
terminals also takes a `Look`. They are loaded when they are asked for. `kinds` has the letters and
colours of the kinds of operations, `summary` the figures of a plan, `explanation` the text of
`stretto explain`.
"""

from importlib import import_module

from stretto.compiler.plan.plan import Plan
from stretto.compiler.program.program import ProgramName
from stretto.compiler.show.look import Look
from stretto.compiler.show.summary import Summary, summarize

__all__ = ["FORMATS", "Look", "Summary", "draw", "format_of", "summarize"]

FORMATS = {
    # name of the format: its module here, the suffix of a file that asks for it
    "text": ("text", ".txt"),
    "svg": ("svg", ".svg"),
    "html": ("html", ".html"),
    "trace": ("trace", ".trace.json"),
    "json": ("json", ".json"),
    "dot": ("dot", ".dot"),
    "zero-bubble": ("zero_bubble", ".zb.csv"),
    "primus": ("primus", ".primus.csv"),
    "torch-csv": ("torch_csv", ".csv"),
}


def draw(
    plan: Plan,
    format: str,
    name: ProgramName = "train",
    look: Look | None = None,
    dialect: str | None = None,
) -> str:
    """The Program `name` of the plan in a format of the table; `torch-csv` in one of its dialects.
    Raises `Rejected` where the format cannot hold it."""
    from stretto.compiler.show.view import view  # with all that explains idle time

    module = import_module(f"{__name__}.{FORMATS[format][0]}")
    shown = view(plan, name)
    if format == "text":
        text: str = module.draw(shown, look or Look())
    elif dialect is not None and format == "torch-csv":
        text = module.draw(shown, dialect)
    else:
        text = module.draw(shown)
    return text


def format_of(file: str) -> str:
    """The format that a file's name asks for: the first whose suffix it has; text where it has no
    suffix. Raises `LookupError` for a suffix that no format has."""
    for name, (_, suffix) in FORMATS.items():
        if file.endswith(suffix):
            return name
    if "." in file.lstrip("."):
        raise LookupError(file)
    return "text"
