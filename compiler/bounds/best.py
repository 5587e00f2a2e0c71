"""Spec → Finding: every theorem asked about every rank, the largest answer kept."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from stretto.compiler.bounds.longest_paths import Net, Times, heads, net, tails
from stretto.compiler.bounds.memory import memory
from stretto.compiler.bounds.memory_time import little, stays
from stretto.compiler.bounds.one_machine import Job, Set, critical, everything, jackson
from stretto.compiler.bounds.overlap import Pair, pairs, paths, shares
from stretto.compiler.bounds.rank_as_stage import merged, sharpen
from stretto.compiler.bounds.relaxation import Model, Place, relax
from stretto.compiler.bounds.span import bracketed, connected, firsts
from stretto.compiler.bounds.symmetry import alike, fifo
from stretto.compiler.bounds.window import Window, window
from stretto.compiler.problem.spec import Spec

ROUNDS = 20
"""How often ranks as one stage may raise heads and tails."""

EFFORT = 4_000_000
"""How much may be walked for the heads and tails of single ranks, in operations."""

SPANS = 1_000_000
"""Operations × ranks up to which the span of every rank is bounded; beyond, of some ranks."""


class Finding(NamedTuple):
    """A proven bound: what of which rank proves it. `by` is `chain`, `busy`, `merged`, `window`,
    `little` or `nothing`. For a span, `rank` is whose, `first` the operation that was taken for
    its first, and `on` the rank whose operations fill it; for a makespan `on` is `rank`."""

    ticks: int
    by: str
    rank: int = -1
    on: int = -1
    first: Place | None = None
    share: int = 0
    window: Window | None = None
    whole: bool = False  # all that the rank has to do fills it


@dataclass(frozen=True, slots=True)
class Ground:
    """What all theorems stand on."""

    model: Model
    holds: list[bool]
    pairs: list[Pair]
    net: Net
    shares: list[dict[int, list[int]]]
    stay: dict[tuple[int, int], int]
    plain: bool = False  # without B8, and without windows of a rank's own


def ground(spec: Spec) -> Ground:
    """The Model of the Spec with the edges that it implies. Where these make a circle no order
    meets the limit, and they are left out."""
    model = relax(spec)
    holds = alike(model)
    found = pairs(model)
    path = paths(model, found)
    choices = shares(model, found, path)
    ticks = [choices[0].get(c, work) for c, work in enumerate(model.work)]
    base = net(model, path, ticks, [*fifo(model, holds), *memory(model, holds)])
    if base is None:
        holds = [False] * len(holds)
        base = net(model, path, ticks, [])
    if base is None:
        raise AssertionError("expand refuses circles")
    return Ground(model, holds, found, base, choices, stays(model, path))


def best(base: Ground) -> Finding:
    """The largest bound of what the Spec minimizes."""
    if not any(strand.many for strand in base.model.strands):
        return Finding(0, "nothing")
    if base.model.spec.minimize == "span":
        return max(_spans(base), key=lambda found: found.ticks)
    head, tail = bracket(base, -1, None)
    return max(_makespans(base, head, tail), key=lambda found: (found.ticks, found.whole))


def jobs(
    base: Ground, share: int, rank: int, head: Times, tail: Times
) -> tuple[list[Place], list[Job]]:
    """The operations of `rank` that are connected, and what Jackson's schedule is to know of
    them."""
    places, ticks = list(connected(base.model, rank, head, tail)), _ticks(base, share)
    return places, [(head[c][i], ticks[c][i], tail[c][i]) for c, i in places]


def _ticks(base: Ground, share: int) -> Times:
    """How long operations keep their rank busy, by a choice of shares."""
    less = base.shares[share]
    return [less.get(c, work) for c, work in enumerate(base.model.work)]


def filled(base: Ground, found: Finding) -> tuple[list[Place], Set]:
    """The operations of a `busy` Finding: those of the rank, and which of them, with the three
    terms; of a `merged` one these alone."""
    head, tail = bracket(base, found.rank, found.first)
    if found.by == "merged":
        one = merged(base.net, found.on, head, tail, _ticks(base, found.share))
        assert one is not None
        return [], critical(one.jobs())
    places, listed = jobs(base, found.share, found.on, head, tail)
    return places, everything(listed) if found.whole else critical(listed)


def bracket(base: Ground, rank: int, first: Place | None) -> tuple[Times, Times]:
    """Heads and tails for the makespan, or for the span of `rank`."""
    if base.model.spec.minimize == "makespan":
        size = sum(strand.many for strand in base.model.strands)
        rounds = 0 if base.plain else min(ROUNDS, EFFORT // (32 * max(size, 1)))
        choices = [_ticks(base, share) for share in range(len(base.shares))]
        return sharpen(base.net, choices, rounds)
    return bracketed(base.net, rank, first, tails(base.net, rank))


def _makespans(base: Ground, head: Times, tail: Times) -> Iterator[Finding]:
    """What every theorem says of every rank."""
    model, path = base.model, base.net.path
    longest = max(
        head[c][i] + path[c][i] + tail[c][i]
        for c, strand in enumerate(model.strands)
        for i in range(strand.many)
    )
    yield Finding(longest, "chain")
    for rank in sorted({strand.rank for strand in model.strands if strand.many}):
        yield from _of_rank(base, rank, rank, head, tail)
        own = [c for c in model.on(rank) if model.strands[c].many]
        held = little(model, rank, base.stay)
        if held is not None:
            before = min(min(head[c]) for c in own)
            after = min(min(tail[c]) for c in own)
            yield Finding(before + held + after, "little", rank, rank)


def _of_rank(
    base: Ground, rank: int, on: int, head: Times, tail: Times, first: Place | None = None
) -> Iterator[Finding]:
    """Jackson's value of the operations of `on`, and its windows if it is the rank itself."""
    for share in range(len(base.shares)):
        listed = jobs(base, share, on, head, tail)[1]
        value, _ = jackson(listed)
        whole = bool(listed) and everything(listed).value == value
        yield Finding(value, "busy", rank, on, first, share, whole=whole)
        one = merged(base.net, on, head, tail, _ticks(base, share)) if rank == on else None
        if one is not None and not base.plain:
            yield Finding(jackson(one.jobs())[0], "merged", rank, on, first, share)
    if rank == on:
        alone = _alone(base, rank, first, head, tail)
        found = window(base.model, rank, base.pairs, head, tail, alone)
        if found is not None:
            yield Finding(found.value, "window", rank, on, first, 0, found)


def _alone(
    base: Ground, rank: int, first: Place | None, head: Times, tail: Times
) -> tuple[Times, Times] | None:
    """Heads and tails for which no operation of `rank` is in a unit; None where that is the same,
    and where it would take too long."""
    model, net = base.model, base.net
    own = model.on(rank)
    size = sum(strand.many for strand in model.strands) * model.spec.ranks
    if base.plain or size > EFFORT or all(net.path[c] == model.work[c] for c in own):
        return None
    path = [model.work[c] if c in own else ticks for c, ticks in enumerate(net.path)]
    other = replace(net, path=path)
    if model.spec.minimize == "makespan":
        return heads(other, least=head), tails(other, least=tail)
    return bracketed(other, rank, first, tails(other, rank))


def _spans(base: Ground) -> Iterator[Finding]:
    """What every theorem says of the span of every rank: the least over the operations that may
    be its first."""
    model = base.model
    ranks = sorted({strand.rank for strand in model.strands if strand.many})
    size = sum(strand.many for strand in model.strands)
    few = max(1, SPANS // size)
    busiest = max(ranks, key=lambda rank: sum(sum(model.work[c]) for c in model.on(rank)))
    for rank in dict.fromkeys([busiest, *ranks[:: -(-len(ranks) // few)]]):
        tail = tails(base.net, rank)
        found = []
        places = firsts(model, rank, base.holds)
        candidates: list[Place | None] = [None] if places is None else [*places]
        for first in candidates:
            head, tail = bracketed(base.net, rank, first, tail)
            found.append(
                max(
                    (one for on in ranks for one in _of_rank(base, rank, on, head, tail, first)),
                    key=lambda one: one.ticks,
                )
            )
        yield min(found, key=lambda one: one.ticks)
        held = little(model, rank, base.stay)
        if held is not None:
            yield Finding(held, "little", rank, rank)
