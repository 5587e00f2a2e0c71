"""`stretto explain CODE`: what an error code means, from the table that the documents are made of
too. `stretto explain PLAN`: what its time goes into, and what would help."""

import re
from argparse import Namespace
from pathlib import Path
from textwrap import fill, indent

import msgspec

from stretto.compiler import library
from stretto.compiler.codes import CODES, complete
from stretto.compiler.commands import files
from stretto.compiler.commands.load import load
from stretto.compiler.near import nearest
from stretto.compiler.order.budget import Budget
from stretto.compiler.printable import printable
from stretto.compiler.summary import step_of


def run(chosen: Namespace) -> int:
    if (
        files.is_stream(chosen.what)
        or files.is_plan(chosen.what)
        or chosen.what.endswith(".pipe")
        or library.has(chosen.what)
    ):
        return of_plan(chosen)
    code = chosen.what.strip().removeprefix("error[").removeprefix("warning[").rstrip("]:")
    if code not in CODES:
        near = nearest(code, CODES)
        if not re.fullmatch(r"[a-z-]+", code) or (near is None and Path(f"{code}.pipe").is_file()):
            raise files.Unusable(files.unknown(chosen.what))
        hint = f"did you mean `{near}`?" if near else "docs/language.md has them all"
        raise files.Unusable(f"there is no code `{code}`; {hint}")
    print(page(code))
    return 0


def of_plan(chosen: Namespace) -> int:
    """The critical chain, idle time by its cause, and what easing a demand would gain."""
    from stretto.compiler.explain import explain
    from stretto.compiler.relaxations import relaxed
    from stretto.compiler.show.explanation import data, text

    plan = load(chosen.what, chosen)
    program = plan.programs[step_of(plan)]
    found = explain(program)
    seconds = 20.0 if chosen.time_limit is None else float(chosen.time_limit)
    budget = Budget(seconds=seconds, effort=chosen.effort, seed=chosen.seed)
    found = msgspec.structs.replace(found, relaxed=relaxed(program, found, budget))
    if chosen.json:
        print(msgspec.json.encode(data(program.spec, found)).decode())
    else:
        print(printable(text(program.spec, found)))
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
