"""Problem → nothing, or `Rejected`: memory limits that no order can meet are refused before any
search, each with the smallest limit that could be met and the operations that need it.

Whatever the order, while an operation runs a rank holds what the operations before it in the same
micro-batch have taken and those after it give back; the largest such sum over the operations is
the least a rank needs. Without rules and written orders this is exact: micro-batches can take
turns, one through all its stages before the next starts, and pipelines likewise. It is only a lower
bound where a pipeline feeds several others (their micro-batches are held together), with rules, and
with a part of an order. A written sequence raises it to what the sequence itself holds, if all that
it leaves out gives memory back as early as possible.
"""

from collections.abc import Iterator
from typing import NamedTuple

from stretto.compiler.bounds.microbatch_order import ClassOrder, ancestors, rank_order
from stretto.compiler.bounds.relaxation import OpKey, Relaxation, Residency, complete, relax
from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label, Rejected
from stretto.compiler.diagnostics.wording import joined
from stretto.compiler.problem.figures import size_figure
from stretto.compiler.problem.problem import Problem
from stretto.compiler.problem.spec import NONE, Operation, Pipeline, show


class MemoryNeed(NamedTuple):
    """The least limit in grains that a rank could have, and the forwards that are held
    together then. `written`: the author's order demands it."""

    grains: int
    held: list[OpKey]
    written: bool = False


def feasible(problem: Problem) -> None:
    """Refuses limits below what every order needs.

    Raises `Rejected`: one diagnostic (`limit-too-small`) for each `limit` that is too small."""
    spec = problem.spec
    if not any(spec.limits):
        return
    if spec.streams:
        from stretto.compiler.bounds.parts.feasible import feasible_parts

        feasible_parts(problem)
        return
    relaxed = relax(spec)
    short: dict[int, list[tuple[int, MemoryNeed]]] = {}
    for rank, (limit, need) in enumerate(zip(spec.limits, memory_needs(relaxed), strict=True)):
        if limit is not None and need.grains > limit.grains:
            short.setdefault(limit.at, []).append((rank, need))
    if short:
        raise Rejected([_diagnostic(relaxed, ranks) for ranks in short.values()])


LOOKS = 40_000_000
"""How many pairs of a limited rank and an op class are looked at, and of op classes of one rank."""


def memory_needs(relaxed: Relaxation) -> list[MemoryNeed]:
    """For every rank the least limit that could be met. Where very many op classes share ranks, or
    wait for each other across very many ranks, it may be less than that."""
    written = _written(relaxed)
    pairs = sum(len(relaxed.on(rank)) ** 2 for rank in relaxed.ranks)
    order = rank_order(relaxed) if pairs <= LOOKS else None
    ranks = range(relaxed.spec.ranks)
    wide = [rank for rank in ranks if order is None or not _in_line(relaxed, order, rank)]
    few = (len(wide) + len(relaxed.classes)) * len(relaxed.classes) <= LOOKS
    lower = ancestors(relaxed) if wide and few else []
    everywhere = set(wide if few else ())
    found = []
    for rank in ranks:
        choices = [MemoryNeed(0, []), *_alone(relaxed, rank)]
        if rank in everywhere:
            choices += _turns(relaxed, lower, rank)
        elif order is not None:
            choices += _own_turns(relaxed, order, rank)
        if rank in written:
            choices.append(written[rank])
        found.append(max(choices, key=lambda need: need.grains))
    return found


def _in_line(relaxed: Relaxation, order: ClassOrder, rank: int) -> bool:
    """Whether of any two forwards that leave something on the rank one precedes the other. Then of
    all that are held together at any moment the last has begun, so that it is enough to ask what is
    held while each of them runs."""
    allocs = {residency.alloc for residency in relaxed.residencies(rank)}
    mask = sum(1 << order.at[c] for c in allocs)
    several = sum((order.before[c] & mask).bit_count() for c in allocs)
    return several == len(allocs) * (len(allocs) + 1) // 2


def _alone(relaxed: Relaxation, rank: int) -> Iterator[MemoryNeed]:
    """What each forward of the rank leaves, or holds while it runs."""
    leaves: dict[int, int] = {}
    for alloc, _, grains in relaxed.residencies(rank):
        leaves[alloc] = leaves.get(alloc, 0) + grains
    for c in relaxed.on(rank):
        op_class = relaxed.classes[c]
        line = relaxed.spec.pipelines[op_class.pipeline]
        if not op_class.size or op_class.kind != "F":
            continue
        if c in leaves:
            yield MemoryNeed(leaves[c], [(c, 0)])
        elif line.forward_only:
            yield MemoryNeed(line.stages[op_class.stage].activation, [(c, 0)])


def _own_turns(relaxed: Relaxation, order: ClassOrder, rank: int) -> Iterator[MemoryNeed]:
    """What the rank holds at least while a forward of its own runs."""
    residencies = relaxed.residencies(rank)
    for c in dict.fromkeys(one.alloc for one in residencies):
        if relaxed.classes[c].size:
            yield _held(
                [
                    one
                    for one in residencies
                    if order.precedes(one.alloc, c) and order.precedes(c, one.free)
                ]
            )


def _turns(relaxed: Relaxation, lower: list[int], rank: int) -> Iterator[MemoryNeed]:
    """What the rank holds at least while an operation of any rank runs. `lower`: the bits of
    `ancestors`."""
    residencies = relaxed.residencies(rank)
    for c, op_class in enumerate(relaxed.classes):
        if op_class.size:
            yield _held(
                [
                    one
                    for one in residencies
                    if lower[c] >> one.alloc & 1 and lower[one.free] >> c & 1
                ]
            )


def _held(some: list[Residency]) -> MemoryNeed:
    """What these hold together."""
    forwards = list(dict.fromkeys((one.alloc, 0) for one in some))
    return MemoryNeed(sum(one.grains for one in some), forwards)


def _written(relaxed: Relaxation) -> dict[int, MemoryNeed]:
    """What a written sequence holds at its fullest, if a weight gradient that it leaves out runs
    right after its I, and a backward that it leaves out right after its forward."""
    stage_of = {c: stage for stage in relaxed.stages for c in stage[:3] if c is not None}
    found = {}
    for rank, units in enumerate(relaxed.fixed):
        there = {place for unit in units for place in unit}
        held: dict[OpKey, int] = {}
        most = MemoryNeed(0, [], written=True)
        for unit in units:
            forwards = [place for place in unit if relaxed.classes[place[0]].kind == "F"]
            for c, m in dict.fromkeys(forwards + unit):  # an overlapped unit takes, then gives
                if c not in stage_of:
                    continue
                forward, backward, weight, activation, kept = stage_of[c]
                if c == forward:
                    held[forward, m] = activation
                    if sum(held.values()) > most.grains:
                        full = [place for place, grains in held.items() if grains]
                        most = MemoryNeed(sum(held.values()), full, written=True)
                    if (backward, m) not in there:
                        del held[forward, m]
                elif c == backward and weight is not None and (weight, m) in there:
                    held[forward, m] = min(kept, held.get((forward, m), 0))
                else:
                    held.pop((forward, m), None)
        found[rank] = most
    return found


def _diagnostic(relaxed: Relaxation, ranks: list[tuple[int, MemoryNeed]]) -> Diagnostic:
    """The refusal of one limit, about the rank that needs most of those that cannot meet it."""
    spec = relaxed.spec
    rank, need = max(ranks, key=lambda one: one[1].grains)
    limit = spec.limits[rank]
    assert limit is not None
    least = size_figure(spec, need.grains, "up")  # so that it is enough where it is allowed
    given = size_figure(spec, limit.grains, "down")
    names = [_name(relaxed, place) for place in need.held]
    if need.written:
        why = f"its written order holds {_list(names)} at once"
    elif len(names) == 1:
        why = f"{names[0]} leaves that much"
    else:
        why = f"of one micro-batch alone it holds what {_list(names)} leave, all at once"
    notes = [why]
    others = [f"rank {r}" for r, other in ranks if r != rank and other.grains == need.grains]
    if others:
        notes.append(f"so it is on {_list(others)}")
    exact = not spec.rules and complete(spec) and not _branches(spec.pipelines)
    return Diagnostic(
        code="limit-too-small",
        message=f"rank {rank} must hold {least} of activations at once and may hold {given}",
        labels=(Label(spec.spans[limit.at], "the limit"),),
        notes=tuple(notes),
        help=f"allow {'' if exact else 'at least '}{least}"
        + (": one micro-batch at a time can keep to it" if exact else ""),
    )


def _branches(pipelines: tuple[Pipeline, ...]) -> bool:
    """Whether a pipeline feeds more than one other."""
    return any(len({feed.pipeline for feed in line.feeds}) > 1 for line in pipelines)


def _name(relaxed: Relaxation, place: OpKey) -> str:
    op_class = relaxed.classes[place[0]]
    operation = Operation("F", op_class.pipeline, op_class.stage, place[1], op_class.slice, NONE)
    return f"`{show(relaxed.spec, operation)}`"


def _list(names: list[str]) -> str:
    shown = names if len(names) <= 6 else [*names[:5], f"{len(names) - 5} more"]
    return joined(shown)
