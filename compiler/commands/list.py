"""`stretto list`: the library side by side, at one size and with one set of costs. The table in
which a user picks a schedule, best first; below, why the others refuse that size."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from fractions import Fraction
from shutil import get_terminal_size
from typing import NamedTuple

import msgspec

from stretto.compiler import library
from stretto.compiler.commands import files
from stretto.compiler.commands.flags import add_inputs
from stretto.compiler.commands.load import Refused, from_schedule
from stretto.compiler.diagnostics.printable import one_line
from stretto.compiler.diagnostics.wording import columns
from stretto.compiler.order.budget import Budget
from stretto.compiler.plan.plan import Plan
from stretto.compiler.problem.spec import NONE, Spec
from stretto.compiler.show.summary import Summary, largest, of_plan, percent, step_of

HEAD = ("schedule", "makespan", "bound", "gap", "bubble", "peak", "share", "copies", "about")
FOOT = """
makespan and bound in the units of the costs; gap: at most so far from optimal; peak: activations
of stages at most held by a rank; share: the same, in units of what one micro-batch leaves behind
on all ranks, divided by their number; copies: of every weight. Where a file leaves the order open
(v_half), the first one found is listed; `stretto compile` looks for better ones."""


class LibraryRow(NamedTuple):
    """A schedule of the library at the size that was asked for. Where it refuses that size there is
    no `summary`, but a `reason`. `share`: see the text below the table."""

    name: str
    about: str
    summary: Summary | None
    share: Fraction
    reason: str  # of a refusal


EXAMPLES = """\
  stretto list
  stretto list --set ranks=8 --set microbatches=32 --costs measured.pipe"""


def add(parser: ArgumentParser) -> None:
    """The flags of `list`."""
    add_inputs(parser)
    parser.add_argument("--json", action="store_true", help="print the table as JSON")


def run(chosen: Namespace) -> int:
    """Print the table of the library. Returns 1 where no schedule fits."""
    rows = sorted(compared(chosen), key=lambda row: merit(row))
    if not any(row.summary for row in rows):
        return none_fits(rows)
    if chosen.json:
        print(msgspec.json.encode([listed(row) for row in rows]).decode())
        return 0
    good = [row for row in rows if row.summary]
    width = get_terminal_size((200, 24)).columns
    for line in columns([HEAD, *map(cells, good)], right=range(1, 8)):
        line = one_line(line)
        print(line if len(line) <= width else line[: width - 1] + "…")
    print(FOOT)
    for row in rows:
        if not row.summary:
            print(f"\n{one_line(f'{row.name}: {row.reason}')}")
    return 0


def none_fits(rows: list[LibraryRow]) -> int:
    """What keeps all from being listed: told once where it is the same of all."""
    reasons = {row.reason for row in rows}
    if len(reasons) == 1:
        files.say(f"stretto: no schedule of the library fits: {reasons.pop()}")
    else:
        files.say(
            "stretto: no schedule of the library fits", *(f"{r.name}: {r.reason}" for r in rows)
        )
    return 1


def compared(chosen: Namespace) -> Iterator[LibraryRow]:
    """Every schedule of the library, compiled; where nobody wrote the order, without a search."""
    for name in library.names():
        source = library.read(name)
        about = library.about(source)
        try:
            plan = from_schedule(source, chosen, Budget(effort=0))
        except Refused as error:
            yield LibraryRow(name, about, None, Fraction(0), error.diagnostics[0].message)
        else:
            yield LibraryRow(name, about, of_plan(plan), share(plan), "")


def share(plan: Plan) -> Fraction:
    """The highest peak over what a micro-batch leaves behind on one rank if all hold as much."""
    step = step_of(plan)
    spec: Spec = plan.programs[step].spec
    models = [p for p in spec.pipelines if p.replicates == NONE]
    left = sum(stage.activation for p in models for stage in p.stages)
    return Fraction(max(plan.claims[step].activations) * spec.ranks * len(models), left or 1)


def merit(row: LibraryRow) -> tuple[bool, float, Fraction, str]:
    """Those that fit by bubble, then memory."""
    if row.summary is None:
        return (True, 0.0, Fraction(0), row.name)
    return (False, row.summary.bubble, row.share, row.name)


def cells(row: LibraryRow) -> tuple[str, ...]:
    """The row as texts, in the columns of `HEAD`."""
    s = row.summary
    assert s is not None
    gap = "optimal" if s.optimal else percent(s.gap)
    figures = (str(s.makespan), str(s.lower_bound), gap, percent(s.bubble), str(largest(s)))
    return (row.name, *figures, f"{float(row.share):.3g}", str(s.weight_copies), row.about)


def listed(row: LibraryRow) -> dict[str, object]:
    """The row as an object of `list --json`."""
    if row.summary is None:
        return {"schedule": row.name, "about": row.about, "refused": row.reason}
    return {**msgspec.to_builtins(row.summary), "about": row.about}
