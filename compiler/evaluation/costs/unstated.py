"""Costs that nothing is said of while others are stated: they take 1, which is seldom what was
meant beside costs that were measured; and activations likewise. In: the table as the statements
left it, before anything is rounded. Out: a `SeldomMeant` that names what runs so."""

from collections.abc import Iterator, Sequence
from fractions import Fraction

from stretto.compiler.diagnostics.source import Span
from stretto.compiler.diagnostics.wording import joined
from stretto.compiler.evaluation.costs.exact import ExactCosts
from stretto.compiler.evaluation.costs.table import StageKey
from stretto.compiler.evaluation.expressions.values import show
from stretto.compiler.evaluation.settings import SeldomMeant
from stretto.compiler.language import syntax as s
from stretto.compiler.problem.spec import NONE, Unit

MOST_NAMED = 3  # stages of one kind


def unstated(
    costs: ExactCosts, written: Sequence[Sequence[Unit]], whole: bool
) -> Iterator[SeldomMeant]:
    """What takes the default 1 though it runs and other costs are stated. `written`: the orders,
    `whole`: whether every operation stands in them."""
    table = costs.table
    if not table.stages and not table.cells:
        return
    stated = _stated(costs)
    asked = [
        (kind, p.index, stage, part)
        for p in costs.pipelines
        for stage in range(len(p.ranks))
        for part, kind in costs.kinds_of(p, stage)
    ]
    missing = {key: found for key in asked if (found := set(_defaults(costs, stated, key)))}
    if missing and costs.declared.split and not costs.declared.parts:
        runs = ran(costs, written, whole)
        missing = {key: found for key, found in missing.items() if key[:3] in runs}
    lacking = set().union(*missing.values())
    if not lacking:
        return
    names = [name for kind in "FBIW" for name in _names(costs, asked, lacking, kind)]
    halves = _halves(costs, stated) if set(names) == {"I", "W"} else ""
    yield SeldomMeant("unstated-cost", f"{_words(names)}{halves}", _place(costs, names[0][0]))


def unstated_activations(costs: ExactCosts) -> Iterator[SeldomMeant]:
    """Stages that leave 1 in memory because nothing is said of them, beside others of which
    something is."""
    table = costs.table
    if not table.activation:
        return
    stages = [(p, stage) for p in costs.pipelines for stage in range(len(p.ranks))]
    names = [f"{p.name}[{i}]" for p, i in stages if (p.index, i) not in table.activation]
    if not names:
        return
    leaves = "leaves" if len(names) == 1 else "leave"
    yield SeldomMeant(
        "unstated-activation",
        f"activations are stated, but nothing is said of {quoted(names)}, which {leaves} 1: "
        f"`activation {names[0]} = ...` says otherwise",
        max(table.stated[value] for value in table.activation.values()),
    )


def _stated(costs: ExactCosts) -> set[StageKey]:
    """What costs something that was said, on every micro-batch and slice."""
    table, slices = costs.table, costs.declared.slices or 1
    each = {p.index: p.microbatches * slices for p in costs.pipelines}
    full = (key for key, cells in table.cells.items() if len(cells) == each[key[1]])
    return {*table.stages, *full}


def _defaults(costs: ExactCosts, stated: set[StageKey], key: StageKey) -> Iterator[StageKey]:
    """What the cost of an operation is made of that nothing is said of: of a backward that is not
    split itself, where nothing is said of its halves either."""
    if key in stated:
        return
    kind, p, stage, part = key
    made_of = costs.table.made_of(kind, p, stage, part)
    halves = [x for k in made_of for x in _defaults(costs, stated, (k, p, stage, part))]
    if not made_of or (len(halves) == 2 and not costs.declared.split):
        yield key
    else:
        yield from halves


def ran(
    costs: ExactCosts, written: Sequence[Sequence[Unit]], whole: bool
) -> set[tuple[str, int, int]]:
    """The kinds of operations that every stage has in a step whose backwards may be split: those of
    the orders, and where these leave any out, the halves."""
    found = {
        (one.kind, one.pipeline, one.stage)
        for units in written
        for unit in units
        for one in unit.operations
    }
    if not whole:
        stages = [(p.index, stage) for p in costs.pipelines for stage in range(len(p.ranks))]
        found |= {(kind, *stage) for stage in stages for kind in "FIW"}
    return found


def _names(
    costs: ExactCosts, asked: list[StageKey], lacking: set[StageKey], kind: str
) -> list[str]:
    """What lacks a cost of this kind as a `cost` statement names it: without a stage where all
    lack it."""
    found = _by_label(costs, (key for key in lacking if key[0] == kind))
    like = _by_label(costs, ((kind, *key[1:]) for key in asked if (key[0] == "F") == (kind == "F")))
    names: list[str] = []
    for label, stages in sorted(found.items()):
        if stages == like[label]:
            names.append(label)
            continue
        several = len(costs.pipelines) > 1
        for p, stage in sorted(stages)[:MOST_NAMED]:
            where = f" {costs.pipelines[p].name}" if several else ""
            names.append(f"{label}{where}[{stage}]")
        if len(stages) > MOST_NAMED:
            names.append(f"{label} of {len(stages) - MOST_NAMED} more")
    return names


def _by_label(costs: ExactCosts, keys: Iterator[StageKey]) -> dict[str, set[tuple[int, int]]]:
    """The stages of each `F` or, of a part, `F.mlp`."""
    found: dict[str, set[tuple[int, int]]] = {}
    for kind, p, stage, part in keys:
        name = "" if part == NONE else f".{costs.pipelines[p].chains[stage][part].name}"
        found.setdefault(kind + name, set()).add((p, stage))
    return found


def _words(names: list[str]) -> str:
    told = [f"`{name}`" for name in names]
    takes = "takes" if len(told) == 1 else "take"
    default = "2, 1 for each half" if all(name[0] == "B" for name in names) else "1"
    return (
        f"costs are stated, but nothing is said of {joined(told)}, which {takes} {default}: "
        f"`cost {names[0]} = ...` says otherwise"
    )


def _halves(costs: ExactCosts, stated: set[StageKey]) -> str:
    """What makes them a half each of the backward that is stated in one piece, if nothing better is
    known of them."""
    backwards = [key for key in stated if key[0] == "B"]
    values = {costs.table.of_stage(*key) for key in backwards}
    if not backwards:
        return ""
    if len(values) > 1 or any(key in costs.table.cells for key in backwards):
        return "; halves of `B` would be the same statements with half of its figures"
    half = show(Fraction(values.pop()) / 2)
    return f"; halves of `B` would be `cost I = {half} cost W = {half}`"


def quoted(names: Sequence[str]) -> str:
    """The first of the names, and how many more there are: "`F`, `I` and 4 more"."""
    more = [f"{len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    return joined([*(f"`{name}`" for name in names[:MOST_NAMED]), *more])


def _place(costs: ExactCosts, kind: str) -> Span:
    """The last cost that is stated of this kind; else of the backward it is a half of; else of
    all."""
    statements = [deferred.statement for deferred in costs.declared.costs]
    known = [one for one in statements if isinstance(one, s.Cost) and one.other is None]
    for kinds in (kind, "BIW" if kind != "F" else "", "FBIW"):
        for one in reversed(known):
            if one.operation.kind in kinds:
                return one.span
    raise AssertionError("a cost that no statement states")
