"""`stretto check FILE…`: parse to prove, and say what was proved."""

import sys
from argparse import ArgumentParser, Namespace
from fractions import Fraction
from time import monotonic

from stretto.compiler.commands import files, load, screen
from stretto.compiler.commands.doubts import warnings
from stretto.compiler.commands.flags import FILE, add_inputs, add_messages, add_search, add_tables
from stretto.compiler.commands.report import report
from stretto.compiler.diagnostics.diagnostic import Diagnostic
from stretto.compiler.diagnostics.layout import hung
from stretto.compiler.diagnostics.printable import one_line, printable
from stretto.compiler.diagnostics.render import FORMATS
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.diagnostics.wording import count
from stretto.compiler.order.budget import Budget
from stretto.compiler.plan.plan import Plan
from stretto.compiler.problem.figures import figure
from stretto.compiler.program.program import Send
from stretto.compiler.proof.prove import ASSUMPTIONS, STREAM_ASSUMPTIONS
from stretto.compiler.show.summary import (
    Summary,
    any_memory,
    away,
    figures,
    of_plan,
    percent,
    step_of,
)

SEARCHES = ("time_limit", "effort", "gap", "engine")

EXAMPLES = """\
  stretto check mine.pipe --set ranks=16
  stretto check mine.plan --format json
  stretto check --from torch-csv table.csv"""


def add(parser: ArgumentParser) -> None:
    """The flags of `check`."""
    add_inputs(parser)
    add_search(parser)
    add_messages(parser)
    add_tables(parser)
    parser.add_argument("files", nargs="+", metavar="FILE", help=FILE)
    parser.add_argument(
        "--format", choices=FORMATS, default="full", help="format of the diagnostics (default full)"
    )
    parser.add_argument(
        "--assumptions", action="store_true", help="also print what the proofs rest on"
    )


def run(chosen: Namespace) -> int:
    """Check every file: 1 if any is wrong, 2 if any cannot be read. Whether a file is right does
    not depend on how good an order is found, so that without a word the first will do."""
    if chosen.system is None:
        tables_alone(chosen)
    searches = any(getattr(chosen, flag) is not None for flag in SEARCHES)
    budget = None if searches else Budget(effort=0)
    found: list[Diagnostic] = []
    sources: list[Source] = []
    codes = {0}
    chosen.diagnostics_are_data = chosen.format != "full"
    rests: dict[str, None] = {}  # what the proofs rest on, each once
    for name in chosen.files:
        chosen.began = monotonic() if name != chosen.files[0] else chosen.began
        try:
            if chosen.system is None:
                plan = load.load(name, chosen, budget)
            else:
                plan, source = table(name, chosen, found)
                sources.append(source)
        except load.Refused as error:
            found += error.diagnostics
            sources += error.sources
            codes.add(1)
        except files.Unusable as error:
            files.say(f"stretto: {error}")
            codes.add(2)
        else:
            streams = plan.programs[step_of(plan)].spec.streams
            rests.update(dict.fromkeys(STREAM_ASSUMPTIONS if streams else ASSUMPTIONS))
            if chosen.format in ("full", "concise"):
                told = proved(name, plan)
                if searches and chosen.system is not None:
                    told.append(shorter(plan, chosen))
                for line in map(printable, told):
                    print(*hung(line, screen.width(sys.stdout)), sep="\n")
    if chosen.diagnostics_are_data:
        found += dict.fromkeys(warnings(chosen))
    report(found, sources, chosen.format)
    if chosen.assumptions and chosen.format in ("full", "concise"):
        print("What the proofs rest on:")
        for rest in rests or ASSUMPTIONS:
            print(*hung(f"  - {rest}", screen.width(sys.stdout)), sep="\n")
    return max(codes)


def tables_alone(chosen: Namespace) -> None:
    """Refuse what says how a table is to be read where no table is. Raises `Unusable`."""
    for flag in ("ranks", "microbatches", "placement"):
        value = getattr(chosen, flag)
        if value is not None:
            instead = "" if flag == "placement" else f"; a schedule's are `--set {flag}={value}`"
            raise files.Unusable(f"--{flag} is for tables, with `--from SYSTEM`{instead}")


def table(name: str, chosen: Namespace, doubts: list[Diagnostic]) -> tuple[Plan, Source]:
    """The proved Plan of another system's table, and its text; what is doubtful about it is added
    to `doubts`."""
    from stretto.compiler.commands.tables import table_plan

    if chosen.settings:
        raise files.Unusable(f"`{name}` is a table: it has no parameters that --set could change")
    return table_plan(name, chosen, doubts)


def shorter(plan: Plan, chosen: Namespace) -> str:
    """What a better order of a table would gain, in a line."""
    from stretto.compiler.commands.tables import better

    found = of_plan(better(plan, load.searching(chosen)))
    before = of_plan(plan)
    a, b = Fraction(before.makespan), Fraction(found.makespan)
    known = "optimal" if found.optimal else f"{away(found)} from optimal"
    if b >= a:
        return f"  the same placement and memory: no shorter order was found ({known})"
    gain = f"makespan {figure(b)}, {percent(float(1 - b / a))} shorter ({known})"
    return (
        f"  the same placement and memory: {gain}; `stretto import --reorder` writes it as a file"
    )


def proved(name: str, plan: Plan) -> list[str]:
    """What a proof says, in three lines; one more where the step has no evaluation beside it,
    where a bound is over any memory, and for what the figures rest on though nobody stated it."""
    s: Summary = of_plan(plan)
    program = plan.programs[step_of(plan)]
    messages = sum(isinstance(one, Send) for rank in program.ranks for one in rank)
    limits = " within the limits" if program.spec.limits else ""
    return [
        f"{one_line(name)}: proved, {figures(s)}",
        f"  {count(s.operations, 'operation')} exactly once, in the order of the data; "
        f"{count(messages, 'message')} paired with their receives;",
        f"  no deadlock, even where a send waits for its receive; activations{limits} and "
        "slots given back",
        *([f"  bound: {words}"] if (words := any_memory(s)) else []),
        *(f"  assumed: {words}" for words in s.assumed),
        *([f"  no evaluation: {s.no_evaluation}"] if s.no_evaluation else []),
    ]
