"""`stretto explain CODE`: what an error code means, from the table that the documents are made of
too. `stretto explain PLAN`: what its time goes into, and what would help."""

import re
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from textwrap import fill, indent
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from stretto.compiler import library
from stretto.compiler.commands import files, screen
from stretto.compiler.commands.doubts import as_data
from stretto.compiler.commands.flags import add_inputs, add_search
from stretto.compiler.commands.load import Teller, load, searching
from stretto.compiler.diagnostics.codes import CODES, complete
from stretto.compiler.diagnostics.printable import printable
from stretto.compiler.diagnostics.suggest import nearest
from stretto.compiler.order.budget import Budget, SearchProgress
from stretto.compiler.show.summary import step_of

if TYPE_CHECKING:
    from stretto.compiler.analysis.explanation import Explanation
    from stretto.compiler.problem.spec import Spec

EXAMPLES = """\
  stretto explain v_half.plan
  stretto explain left-out"""


def add(parser: ArgumentParser) -> None:
    """The flags of `explain`. Also of a plan it searches, for what would shorten it."""
    add_inputs(parser)
    add_search(parser)
    parser.add_argument(
        "what", metavar="WHAT", help="a code, as in `error[CODE]`; or a schedule or plan"
    )
    parser.add_argument(
        "--json", action="store_true", help="of a schedule or plan: print one JSON object"
    )
    parser.set_defaults(searches_in_plans=True)


def run(chosen: Namespace) -> int:
    """Print what the code means, or where the time of the plan goes."""
    if (
        files.is_stream(chosen.what)
        or files.is_plan(chosen.what)
        or chosen.what.endswith(".pipe")
        or library.has(chosen.what)
    ):
        from stretto.compiler.driver import without_collector

        with without_collector():
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


NOT_EASED = (
    "what easing a demand would gain is not worked out where stages are cut into parts, nor what "
    "moving work or parts from one stage to the next would; of a plan made with `stretto compile "
    "--whole` it is, for whole stages"
)
NOT_TRIED = "interrupted: what would help was not tried"

SECONDS = 6.0
"""From the start of the command, if nothing else is said; half of them for an order that is not
there yet."""


def of_plan(chosen: Namespace) -> int:
    """The critical chain, idle time by its cause, and what easing a demand would gain."""
    from stretto.compiler.analysis.balance import moving_work
    from stretto.compiler.analysis.explanation import explain
    from stretto.compiler.analysis.what_if import what_would_help

    seconds = SECONDS if chosen.time_limit is None else float(chosen.time_limit)
    search = replace(searching(chosen), seconds=seconds / 2, until=chosen.began + seconds / 2)
    plan = load(chosen.what, chosen, search)
    program = plan.programs[step_of(plan)]
    found = msgspec.structs.replace(explain(program), assumed=plan.assumed)
    if program.spec.parts:
        found = msgspec.structs.replace(found, notes=(NOT_EASED,))
        return told(chosen, program.spec, found)
    if chosen.interrupts.begin_again():
        return told(chosen, program.spec, msgspec.structs.replace(found, notes=(NOT_TRIED,)))
    try:
        balance = moving_work(program, _work(chosen, seconds))
    except KeyboardInterrupt:
        return told(chosen, program.spec, msgspec.structs.replace(found, notes=(NOT_TRIED,)))
    found = msgspec.structs.replace(found, moves=balance.moves)
    teller = Trying()
    budget = Budget(
        seconds,
        until=chosen.began + seconds,
        effort=chosen.effort,
        seed=chosen.seed,
        progress=teller.compiling,
    )
    try:
        gains, notes = what_would_help(program, found, budget, teller)
    finally:
        teller.clear()
    found = msgspec.structs.replace(
        found, gains=(*balance.even, *gains), notes=(*balance.notes, *notes)
    )
    return told(chosen, program.spec, found)


def _work(chosen: Namespace, seconds: float) -> int:
    """How much of moving work may be tried: where seconds count, about a third of those left."""
    from stretto.compiler.analysis.balance import EACH_SECOND, WORK

    if chosen.effort is not None:
        return WORK
    left = chosen.began + seconds - monotonic()
    return min(WORK, int(max(left, 0.5) / 3 * EACH_SECOND))


def told(chosen: Namespace, spec: "Spec", found: "Explanation") -> int:
    """Print the explanation."""
    from stretto.compiler.show.explanation import data, text

    if chosen.json:
        object = {**data(spec, found), "warnings": as_data(chosen)}
        screen.write_data(msgspec.json.encode(object).decode() + "\n")
    else:
        print(printable(text(spec, found, screen.width(sys.stdout))))
    return 0


class Trying(Teller):
    """Tells what is being tried, on stderr, once it has lasted two seconds."""

    def __call__(self, what: SearchProgress | str) -> None:
        """Tell what is being tried, if that has lasted two seconds."""
        if monotonic() < self.next:
            return
        if self.terminal:
            self.line(f"trying: {what} ...")
        else:
            files.say(f"trying: {what}")

    def compiling(self, now: SearchProgress) -> None:
        """Only the word that loops are compiled: what is tried has been told."""
        if not now.best:
            self.clear()
            files.say(now.engine)


def page(code: str) -> str:
    """The code's page: its meaning, a wrong example and the same one mended."""
    row = CODES[code]
    parts = [f"{code}: {row.title}", fill(row.explanation, min(80, screen.width(sys.stdout) or 80))]
    if row.wrong:
        parts += ["Wrong:", indent(complete(row.wrong).strip("\n"), "    ")]
    if row.mended:
        parts += ["Mended:", indent(complete(row.mended).strip("\n"), "    ")]
    return "\n\n".join(parts)
