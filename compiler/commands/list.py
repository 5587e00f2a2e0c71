"""`stretto list`: the library side by side, at one size and with one set of costs. The table in
which a user picks a schedule, best first; below, why the others refuse that size."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from fractions import Fraction
from textwrap import wrap
from typing import NamedTuple

import msgspec

from stretto.compiler import library
from stretto.compiler.commands import files, screen
from stretto.compiler.commands.doubts import as_data, warnings
from stretto.compiler.commands.flags import add_inputs
from stretto.compiler.commands.load import Refused, from_schedule
from stretto.compiler.diagnostics.layout import TextTable, hung
from stretto.compiler.diagnostics.printable import one_line
from stretto.compiler.order.budget import Budget
from stretto.compiler.plan.plan import Plan
from stretto.compiler.problem.figures import figure, size_in
from stretto.compiler.problem.spec import Spec, number
from stretto.compiler.show.summary import Summary, away, of_plan, percent, stages, step_of

SIZE = 8, 2
"""Ranks, and micro-batches for each, where no other size is asked for: all that ship fit."""

HEAD = (
    "schedule",
    "size",
    "stages",
    "makespan",
    "bound",
    "gap",
    "bubble",
    "memory",
    "copies",
    "about",
)
NUMBERS = range(1, 9)
SPARED = ("about", "copies", "stages", "bound", "gap", "memory", "bubble", "size")
"""The columns that a narrow terminal does without, the first one first."""
FILE_WIDTH = 200  # columns where the output is no terminal

FOOT = """\
stages: that each rank holds. makespan, bound and memory are those of whole stages, of which a rank
holds one copy: where it holds two stages, each is half of one. makespan and bound are in the units
of the costs; memory is what the fullest rank holds of activations: in the unit of `activation`
where that is stated, else how many of whole stages; gap: at most so far from the
least possible makespan, or from the least possible span (the longest time one rank is occupied)
where the schedule is made for that; copies: of every weight. Where a file leaves the order open
(v_half), the first one found is listed; `stretto compile` looks for better ones."""


PARTS = (
    "Stages cut into parts on several streams, with costs of their own, in which communication is "
    "counted: not to be compared with the table above."
)


DIVIDED = (
    "Not to be compared with the other rows: {}. A rank holds several stages there, all figures "
    "are divided by their number, and so is {}."
)
UNSTATED = (
    "Not to be compared with the other rows: {}. Figures that were stated and ones that were "
    "filled in are added up here."
)
UNLIKE = "what single stages cost or hold beyond the others (embedding, output)"
TRANSFERS = "every transfer, which takes no less for a part of a stage"


class LibraryRow(NamedTuple):
    """A schedule of the library at the size that was asked for. Where it refuses that size there is
    no `summary`, but a `reason`. `stages`: that a rank holds of one copy of the model. `share`: the
    memory, see the text below the table. `divided`: what is wrongly divided by `stages`, in
    words. `unstated`: likewise of what its costs or sizes are 1 for want of a statement."""

    name: str
    about: str
    summary: Summary | None
    stages: Fraction
    share: Fraction
    reason: str  # of a refusal
    divided: str = ""
    unstated: str = ""
    warnings: tuple[msgspec.Raw, ...] = ()


EXAMPLES = """\
  stretto list
  stretto list --set ranks=8 --set microbatches=32 --costs measured.pipe"""


def add(parser: ArgumentParser) -> None:
    """The flags of `list`."""
    add_inputs(parser)
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.add_argument(
        "--own-sizes",
        action="store_true",
        help="each at the size that its file has (default: all at one, 8 ranks or what --set says, "
        "with twice as many micro-batches)",
    )


def run(chosen: Namespace) -> int:
    """Print the table of the library. Returns 1 where no schedule fits."""
    if not chosen.own_sizes:
        chosen.settings = [*chosen.settings, *_size(dict(chosen.settings))]
    rows = sorted(compared(chosen), key=lambda row: merit(row))
    if not any(row.summary for row in rows):
        return none_fits(rows)
    if chosen.json:
        screen.write_data(msgspec.json.encode([listed(row) for row in rows]).decode() + "\n")
        return 0
    print("\n".join(tables(rows, screen.width(sys.stdout) or FILE_WIDTH)))
    for row in rows:
        if not row.summary:
            words = one_line(f"{row.name}: {row.reason}")
            print("", *hung(words, screen.width(sys.stdout)), sep="\n")
    return 0


def _size(given: dict[str, Fraction]) -> Iterator[tuple[str, Fraction]]:
    """What is missing of the size at which all are compared."""
    ranks, each = SIZE
    if "ranks" not in given:
        yield "ranks", Fraction(ranks)
    if "microbatches" not in given:
        yield "microbatches", given.get("ranks", Fraction(ranks)) * each


def tables(rows: list[LibraryRow], width: int) -> Iterator[str]:
    """The lines of the tables and of what stands around them."""
    whole = [row for row in rows if row.summary and not row.summary.streams]
    cut = [row for row in rows if row.summary and row.summary.streams]
    yield from _stated_first(whole, width)
    if cut:
        yield from (*wrap(PARTS, min(width, 100)), "")
        yield from _stated_first(cut, width)
    for what in sorted({row.divided for row in rows if row.divided}):
        names = ", ".join(row.name for row in rows if row.divided == what)
        yield from (*wrap(DIVIDED.format(names, what), min(width, 100)), "")
    yield from wrap(" ".join(FOOT.split()), min(width, 100))


def _stated_first(rows: list[LibraryRow], width: int) -> Iterator[str]:
    """A table of the rows whose costs were stated, then one for each thing that nobody stated."""
    yield from table([row for row in rows if not row.unstated], width)
    for words in sorted({row.unstated for row in rows if row.unstated}):
        yield from (*wrap(UNSTATED.format(words), min(width, 100)), "")
        yield from table([row for row in rows if row.unstated == words], width)


def table(rows: list[LibraryRow], width: int) -> Iterator[str]:
    """The lines of one table. One size for all stands above it."""
    sizes = {size(row) for row in rows}
    if not rows:
        return
    if len(sizes) == 1:
        yield f"{sizes.pop()}\n"
    shown = [k for k, name in enumerate(HEAD) if name != "size" or sizes]
    cut = [[one_line(cell) for cell in cells(row)] for row in rows]
    yield from TextTable(
        [HEAD[k] for k in shown],
        [[row[k] for k in shown] for row in cut],
        right=[HEAD[k] for k in NUMBERS],
        spared=SPARED,
    ).lines(width)
    yield ""


def size(row: LibraryRow) -> str:
    """Ranks and micro-batches, of which there are a few words where they stand alone."""
    s = row.summary
    assert s is not None
    return f"{s.ranks} ranks, {s.microbatches} micro-batches"


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
        about, before = library.about(source), len(warnings(chosen))
        try:
            plan = from_schedule(source, chosen, Budget(effort=0))
        except Refused as error:
            yield LibraryRow(
                name, about, None, Fraction(1), Fraction(0), error.diagnostics[0].message
            )
        else:
            yield LibraryRow(
                name,
                about,
                of_plan(plan),
                stages(_spec(plan)),
                share(plan),
                "",
                divided(plan),
                "; ".join(plan.assumed),
                tuple(as_data(chosen, before)),
            )


def _spec(plan: Plan) -> Spec:
    """That of the plan's step."""
    return plan.programs[step_of(plan)].spec


def share(plan: Plan) -> Fraction:
    """The highest peak, in the unit of the costs' sizes, of whole stages."""
    peak, spec = max(plan.claims[step_of(plan)].activations), _spec(plan)
    return Fraction(peak, spec.size_unit) / stages(spec)


def divided(plan: Plan) -> str:
    """What does not belong to every stage alike, where figures are divided by their number; else
    empty."""
    spec = _spec(plan)
    if stages(spec) == 1:
        return ""
    kinds = {(s.F, s.B, s.I, s.W, s.activation) for p in spec.pipelines for s in p.stages}
    return " and ".join([UNLIKE] * (len(kinds) > 1) + [TRANSFERS] * bool(spec.transfers))


def merit(row: LibraryRow) -> tuple[bool, bool, float, Fraction, str]:
    """Those that fit by bubble, then memory; behind them those with figures that nobody stated."""
    if row.summary is None:
        return (True, False, 0.0, Fraction(0), row.name)
    return (False, bool(row.unstated), row.summary.bubble, row.share, row.name)


def cells(row: LibraryRow) -> tuple[str, ...]:
    """The row as texts, in the columns of `HEAD`."""
    s = row.summary
    assert s is not None
    gap = "optimal" if s.optimal else away(s).removeprefix("at most ")
    aim = " (span)" if s.minimize == "span" else ""
    return (
        row.name,
        f"{s.ranks} × {s.microbatches}",
        figure(row.stages),
        figure(Fraction(s.makespan) / row.stages),
        f"{figure(Fraction(s.lower_bound) / row.stages, 'down')}{aim}",
        f"{gap}{aim}",
        percent(s.bubble),
        size_in(s.sizes_in, row.share),
        str(s.weight_copies),
        row.about,
    )


def listed(row: LibraryRow) -> dict[str, object]:
    """The row as an object of `list --json`."""
    if row.summary is None:
        return {"schedule": row.name, "about": row.about, "refused": row.reason}
    s = row.summary
    streams = [PARTS] if s.streams else []
    divided = f"divided by the number of stages too, as makespan and memory are: {row.divided}"
    return {
        **msgspec.to_builtins(s),
        "about": row.about,
        "whole_stages": {
            "makespan": number(Fraction(s.makespan) / row.stages),
            "lower_bound": number(Fraction(s.lower_bound) / row.stages),
            "memory": number(row.share),
        },
        "not_comparable": [*streams, *filter(None, [row.unstated, row.divided and divided])],
        "warnings": row.warnings,
    }
