"""`stretto explain CODE`: the page of an error code, from the table that the documents are made of,
too."""

from argparse import Namespace

from stretto.compiler.codes import CODES
from stretto.compiler.commands import files
from stretto.compiler.near import nearest


def run(chosen: Namespace) -> int:
    code = chosen.what.strip().removeprefix("error[").removeprefix("warning[").rstrip("]:")
    if code not in CODES:
        near = nearest(code, CODES)
        hint = f"did you mean `{near}`?" if near else "they stand in docs/errors.md"
        raise files.Unusable(f"there is no code `{code}`; {hint}")
    print(page(code))
    return 0
