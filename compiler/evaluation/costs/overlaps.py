"""How long overlapped units take, in the file's own units: those that do not take the sum of their
halves, and those that do not take what their stages' units take."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from stretto.compiler.evaluation.costs.exact import ExactCosts, Overrides
from stretto.compiler.evaluation.costs.table import Exact
from stretto.compiler.problem.spec import Kind, Operation, Unit
from stretto.compiler.problem.topology import StageIndex


class ExactPair(NamedTuple):
    """How long an F of one stage and a `kind` of another take as one unit on `rank`."""

    rank: int
    forward: StageIndex
    kind: Kind
    backward: StageIndex
    ticks: Exact


class ExactPairOverride(NamedTuple):
    """How long one unit takes whose stages' figure does not fit it."""

    forward: Operation
    backward: Operation
    ticks: Exact


def pairs(costs: ExactCosts) -> list[ExactPair]:
    """The units of stages that do not take the sum of their halves, rank by rank."""
    if not costs.table.pairs:
        return []
    table, found = costs.table, []
    held: dict[int, list[StageIndex]] = {}
    for p in costs.pipelines:
        for stage, rank in enumerate(p.ranks):
            held.setdefault(rank, []).append((p.index, stage))
    for rank, stages in sorted(held.items()):
        for forward in stages:
            for kind in costs.overlapping:
                for backward in stages:
                    if costs.pipelines[backward[0]].forward_only:
                        continue
                    costs.budget.spend(1, costs.declared.overlap[kind])
                    f, b = table.of_stage("F", *forward), table.of_stage(kind, *backward)
                    ticks = table.of_pair(forward, kind, backward, f, b)
                    if ticks is not None and ticks != f + b:
                        found.append(ExactPair(rank, forward, kind, backward, ticks))
    return found


def pair_overrides(
    costs: ExactCosts,
    overrides: Overrides,
    usual: Sequence[ExactPair],
    written: Sequence[tuple[Unit, ...]],
) -> list[ExactPairOverride]:
    """The units with a half from `overrides` that do not take what the `usual` pairs say of their
    stages or, where these say nothing, the sum of their halves. `written` has the ranks' orders."""
    if not overrides or not costs.table.pairs:
        return []
    of_stages = {(p.forward, p.kind, p.backward): p.ticks for p in usual}
    found = []
    for forward, backward in _candidates(costs, overrides, written):
        f, b = costs.duration(forward, overrides), costs.duration(backward, overrides)
        key = (forward[1:3], backward.kind, backward[1:3])
        ticks = costs.table.of_pair(*key, f, b)
        if ticks is None:
            ticks = f + b
        if ticks != of_stages.get(key, f + b):
            found.append(ExactPairOverride(forward, backward, ticks))
    return found


def _candidates(
    costs: ExactCosts, overrides: Overrides, written: Sequence[tuple[Unit, ...]]
) -> Iterator[tuple[Operation, Operation]]:
    """Units with a half from `overrides`: those that were written and, where the compiler may still
    order, all that could be."""
    for units in written:
        for unit in units:
            if len(unit.operations) == 2:
                forward, backward = unit.operations
                if forward in overrides or backward in overrides:
                    yield forward, backward
    if costs.declared.order_auto is not None or costs.declared.order is None:
        yield from _all_candidates(costs, overrides)


def _all_candidates(
    costs: ExactCosts, overrides: Overrides
) -> Iterator[tuple[Operation, Operation]]:
    kinds = costs.overlapping
    for o in overrides:
        if o.kind != "F" and o.kind not in kinds:
            continue
        rank = costs.pipelines[o.pipeline].ranks[o.stage]
        for kind in kinds if o.kind == "F" else ["F"]:
            for other in costs.operations_on(rank, kind):
                costs.budget.spend(1, next(iter(costs.declared.overlap.values())))
                if (other.pipeline, other.microbatch) == (o.pipeline, o.microbatch):
                    continue
                if o.kind == "F":
                    yield o, other
                elif other not in overrides:
                    yield other, o
