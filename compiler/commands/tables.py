"""Tables of other systems: from a file that `--from` says how to read to its Spec, its proved
Plan, or the text of a schedule file that says the same."""

from argparse import Namespace
from dataclasses import replace as changed
from pathlib import Path
from re import sub

from msgspec.structs import replace

from stretto.compiler.analysis.reoptimize import units_of
from stretto.compiler.commands import files
from stretto.compiler.commands.doubts import warn
from stretto.compiler.commands.load import Refused, from_schedule
from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label, Rejected
from stretto.compiler.diagnostics.printable import one_line
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.diagnostics.wording import count
from stretto.compiler.driver import compile_spec, plan_of
from stretto.compiler.imports.communicating import communicating
from stretto.compiler.imports.directions import crossing
from stretto.compiler.imports.meant import flags_of, systems_of
from stretto.compiler.imports.readable import readable
from stretto.compiler.imports.readers import READERS
from stretto.compiler.imports.recognise import recognised
from stretto.compiler.imports.table import ImportedTable, TableSizes
from stretto.compiler.imports.understand import MOST_ACTIONS, understood
from stretto.compiler.order.budget import Budget
from stretto.compiler.order.check import check
from stretto.compiler.order.search import improve
from stretto.compiler.plan.plan import Plan
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import NONE, Limit, Spec, Unit

LARGEST = 128 << 20  # bytes of a table


def table_plan(name: str, chosen: Namespace, doubts: list[Diagnostic]) -> tuple[Plan, Source]:
    """The proved Plan of a table: with its messages as they stand, where it has them, else with
    ours; and its text. Adds what is doubtful about it to `doubts`. Raises `Refused` and
    `Unusable`."""
    source = _source(name)
    try:
        table, spec = _read(source, chosen)
        expand(spec)  # a circle is told in the table's words, before anything else is
        if table.communicates:
            doubts += crossing(table, spec)
        if chosen.costs or chosen.cost:
            text = Source(table_file(name), readable(spec))
            return from_schedule(text, chosen, Budget(effort=0)), source
        if table.communicates:
            return plan_of(communicating(table, spec)), source
        return compile_spec(spec, Budget(effort=0)), source
    except Rejected as error:
        raise Refused(error.diagnostics, [source]) from None


def better(plan: Plan, budget: Budget) -> Plan:
    """The best order that the budget finds for the placement of a table's plan, in which no rank
    holds more than it does there: anew in one half of the time, and beginning with the table's own
    order in the other."""
    program, claims = plan.programs["train"], plan.claims["train"]
    limits = tuple(Limit(grains, 0) for grains in claims.activations)
    ranks = program.spec.ranks
    free = replace(program.spec, written=(), order=("",) * ranks, limits=limits)
    end = budget.deadline()
    found = compile_spec(free, _seconds(budget, end, 0.5))
    if found.claims["train"].makespan == found.bound.ticks:
        return found
    problem = expand(free)
    order = improve(problem, units_of(program), _seconds(budget, end, 1.0))
    if order is None or check(order).makespan >= found.claims["train"].makespan:
        return found
    operations = problem.operations
    written = [
        tuple(Unit(tuple(operations[k] for k in unit), NONE) for unit in lane.units)
        for lane in order.lanes
    ]
    return compile_spec(replace(free, written=tuple(written), order=program.spec.order))


def _seconds(budget: Budget, end: float, share: float) -> Budget:
    """The budget with this share of the time that is left; as it is where an effort counts."""
    if budget.effort is not None:
        return budget
    left = max(0.1, end - budget.clock())
    return changed(budget, seconds=left * share, until=None)


def table_spec(name: str, chosen: Namespace) -> Spec:
    """What a table says is to be done, its order among it, which can finish. Raises `Refused` and
    `Unusable`."""
    source = _source(name)
    try:
        _, spec = _read(source, chosen)
        expand(spec)
        return spec
    except Rejected as error:
        raise Refused(error.diagnostics, [source]) from None


def schedule_text(name: str, chosen: Namespace, reorder: bool = False) -> tuple[Source, str | None]:
    """The text of a schedule file that says what the table does, under the name that it would
    have, and which schedule of the library it is, if it is one. `reorder`: without the order, and
    with the peaks that it has as limits. Raises `Refused` and `Unusable`."""
    spec = table_spec(name, chosen)
    known = recognised(spec)
    remarks = [f"From {one_line(Path(name).name)}, a table of {chosen.system}."]
    if known:
        remarks.append(f"This is the library's order: {known}")
    if reorder:
        remarks.append("Its order is left out: no rank may hold more than it did there.")
        spec, how = _limited(spec, name, chosen)
        remarks.append(how)
    return Source(table_file(name), readable(spec, remarks, order=not reorder)), known


def _limited(spec: Spec, name: str, chosen: Namespace) -> tuple[Spec, str]:
    """The Spec with the peaks of its order as limits, in the unit in which the given costs state
    activations; and what goes with the limits, in words."""
    if not (chosen.costs or chosen.cost):
        plan = compile_spec(spec, Budget(effort=0))
        how = "The limits count stages: for measured activations import it with --costs."
    else:
        text = Source(table_file(name), readable(spec))
        plan = from_schedule(text, chosen, Budget(effort=0))
        given = " and ".join(filter(None, [chosen.costs, "--cost" if chosen.cost else ""]))
        how = f"The limits count the activations of {one_line(given)}: compile it with the same."
    sized, peaks = plan.programs["train"].spec, plan.claims["train"].activations
    limits = tuple(Limit(grains, 0) for grains in peaks)
    return replace(spec, limits=limits, size_unit=sized.size_unit, sizes_in=sized.sizes_in), how


def table_file(name: str) -> str:
    """The name of the schedule file that says what a table does."""
    return one_line(str(Path(name).with_suffix(".pipe")))


def _source(name: str) -> Source:
    """The text of a table, a byte order mark at its head included. Raises `Unusable`."""
    data = files.bounded(name, LARGEST)
    try:
        return Source("<stdin>" if name == "-" else name, data.decode())
    except UnicodeDecodeError as error:
        raise files.Unusable(f"`{name}` is not UTF-8 text (byte {error.start})") from None


def _read(source: Source, chosen: Namespace) -> tuple[ImportedTable, Spec]:
    most = MOST_ACTIONS if chosen.max_ops is None else chosen.max_ops
    table = READERS[chosen.system](source, most, chosen.placement)
    if table.faults and not any(table.rows) and (others := systems_of(source)):
        what = f"none of its cells is one of `{chosen.system}`"
        help = flags_of(others)
        raise Rejected([Diagnostic("unknown-cell", what, table.faults[0].labels, help=help)])
    if table.passed_over:
        many = count(len(table.passed_over), "cell")
        words = f"{many} of messages or offloading passed over: stretto's own messages are proved"
        first = Label(table.passed_over[0], "the first")
        warn(chosen, Diagnostic("passed-over", words, (first,), severity="warning"))
    sizes = TableSizes(chosen.ranks, chosen.microbatches, chosen.placement)
    return table, understood(table, sizes, most, schedule_name(source.name))


def schedule_name(file: str) -> str:
    """A name for the schedule, of the file's name."""
    name = sub(r"\W+", "_", Path(file).stem, flags=0).strip("_")
    name = "".join(c for c in name if c.isascii())
    return name if name[:1].isalpha() and name not in WORDS else f"table_{name}".rstrip("_")


WORDS = {
    *("F", "B", "I", "W", "let", "repeat", "as", "for", "in", "if", "then", "else", "queue"),
    *("next", "and", "or", "not", "stages", "slice", "layer", "min", "max", "abs", "ceil"),
    *("floor", "len"),
}
"""What cannot be a name in the language."""
