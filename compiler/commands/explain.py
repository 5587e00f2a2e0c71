"""`stretto explain CODE`: what an error code means, from the table that the documents are made of
too."""

from argparse import Namespace
from textwrap import fill, indent

from stretto.compiler.codes import CODES, complete
from stretto.compiler.commands import files
from stretto.compiler.near import nearest


def run(chosen: Namespace) -> int:
    if files.is_plan(chosen.what) or chosen.what.endswith(".pipe"):
        raise files.Unusable("`explain` tells of error codes; of plans it cannot tell yet")
    code = chosen.what.strip().removeprefix("error[").removeprefix("warning[").rstrip("]:")
    if code not in CODES:
        near = nearest(code, CODES)
        hint = f"did you mean `{near}`?" if near else "docs/language.md has them all"
        raise files.Unusable(f"there is no code `{code}`; {hint}")
    print(page(code))
    return 0


def page(code: str) -> str:
    """The code's page: its meaning, a wrong example and the same one mended."""
    row = CODES[code]
    parts = [f"{code}: {row.title}", fill(row.explanation, 80)]
    if row.wrong:
        parts += ["Wrong:", indent(complete(row.wrong).strip("\n"), "    ")]
    if row.mended:
        parts += ["Mended:", indent(complete(row.mended).strip("\n"), "    ")]
    return "\n\n".join(parts)
