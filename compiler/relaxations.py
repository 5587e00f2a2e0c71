"""Program → what it would gain if a demand were eased, found by solving again and not guessed: one
activation more on a rank whose idle time memory causes, or on all of them; a transfer of the
critical chain halved.

Where the author wrote the order it is kept, and only timed anew. Where the compiler found it, it
looks again, for as long as it is given; the Spec at hand gets the same chance, so that luck is no
gain. What a bound shows to gain nothing is not tried.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace as changed
from fractions import Fraction
from itertools import pairwise
from time import monotonic
from typing import NamedTuple

from msgspec.structs import replace

from stretto.compiler.bound import bound
from stretto.compiler.communicate import communicate
from stretto.compiler.diagnostics import Rejected
from stretto.compiler.expand import expand
from stretto.compiler.explain import Explanation, Relaxed
from stretto.compiler.order.arrange import arrange
from stretto.compiler.order.budget import Budget
from stretto.compiler.program import Program
from stretto.compiler.spec import Limit, Spec
from stretto.compiler.timeline import time

CANDIDATES = 3
"""So many ranks and so many transfers are tried at most."""


class Easing(NamedTuple):
    """A Spec with less to keep to."""

    what: str
    spec: Spec


def relaxed(program: Program, explained: Explanation, budget: Budget) -> tuple[Relaxed, ...]:
    """The easings that gain something, the largest gain first. The budget's seconds are shared out
    among them; where it has an effort, each gets that and no clock is looked at. None are tried
    where a part of the order was written, which plans do not keep, nor for forwards alone."""
    spec = program.spec
    written = [bool(digest) for digest in spec.order]
    if program.name != "train" or (any(written) and not all(written)):
        return ()
    ways = list(_transfers(explained, program))
    if all(written):
        now = _value(program)
        found = [(what, _value(replace(program, spec=eased))) for what, eased in ways]
    else:
        ways = [*_memory(explained, spec), *ways]
        now, found = _searched(program, ways, budget)
    gains = [Relaxed(what, now, after) for what, after in found if after < now]
    return tuple(sorted(gains, key=lambda one: one.after))


def _value(program: Program) -> Fraction:
    """What the Spec minimizes, in the units of the file."""
    timeline, spec = time(program), program.spec
    ticks = timeline.makespan if spec.minimize == "makespan" else timeline.span
    return Fraction(ticks, spec.time_unit)


def _searched(
    program: Program, ways: list[Easing], budget: Budget
) -> tuple[Fraction, list[tuple[str, Fraction]]]:
    """Solve the Spec at hand and the eased ones, all with the same budget."""
    end = budget.deadline()
    share = changed(budget, seconds=budget.seconds / (len(ways) + 1))
    now = _value(program)
    again = _solved(program.spec, share) if ways else None
    now = now if again is None else min(now, again)
    found = []
    for what, spec in ways:
        least = Fraction(bound(expand(spec)).ticks, spec.time_unit)
        if least < now and monotonic() + share.seconds / 2 < end:
            after = _solved(spec, share)
            if after is not None:
                found.append((what, after))
    return now, found


def _solved(spec: Spec, budget: Budget) -> Fraction | None:
    """The value of the order that is found, if one is."""
    try:
        order = arrange(expand(spec), budget)
    except Rejected:
        return None
    return _value(communicate(order))


# ---------------------------------------------------------------------------- easings


def _memory(explained: Explanation, spec: Spec) -> Iterator[Easing]:
    """One activation more on the ranks that wait longest for memory, and on all of them."""
    waits = {rank: idle["memory"] for rank, idle in enumerate(explained.idle) if idle["memory"]}
    limits = [rank for rank, limit in enumerate(spec.limits) if limit is not None]
    if not limits:
        return
    for rank in sorted(waits, key=lambda rank: -waits[rank])[:CANDIDATES]:
        yield Easing(f"one more activation on rank {rank}", _roomier(spec, [rank]))
    yield Easing("one more activation on every rank", _roomier(spec, limits))


def _roomier(spec: Spec, ranks: list[int]) -> Spec:
    """The Spec with room for one more of the largest activations of each of these ranks."""
    limits = list(spec.limits)
    for rank in ranks:
        sizes = [s.activation for line in spec.pipelines for s in line.stages if s.rank == rank]
        limit = limits[rank]
        if limit is not None:
            limits[rank] = Limit(limit.grains + max(sizes, default=0), limit.at)
    return replace(spec, limits=tuple(limits))


def _transfers(explained: Explanation, program: Program) -> Iterator[Easing]:
    """The transfers of the critical chain, those that it takes most often first, halved."""
    spec = program.spec
    ticks = {(t.source, t.target): t.ticks for t in spec.transfers}
    taken = Counter((a.rank, b.rank) for a, b in pairwise(explained.chain) if a.rank != b.rank)
    taken = Counter({way: n * ticks[way] for way, n in taken.items() if ticks.get(way)})
    ways = taken.most_common(CANDIDATES)
    for (source, target), _ in ways:
        what = f"transfer from {source} to {target} halved"
        yield Easing(what, _quicker(spec, {(source, target)}))
    if len(ways) > 1:
        yield Easing("all transfers halved", _quicker(spec, set(ticks)))


def _quicker(spec: Spec, ways: set[tuple[int, int]]) -> Spec:
    """The Spec with these transfers halved, in ticks half as long."""
    transfers = tuple(
        t._replace(ticks=t.ticks * (1 if (t.source, t.target) in ways else 2))
        for t in spec.transfers
    )
    pipelines = tuple(
        replace(
            line,
            stages=tuple(
                replace(s, F=2 * s.F, B=2 * s.B, I=2 * s.I, W=2 * s.W) for s in line.stages
            ),
        )
        for line in spec.pipelines
    )
    return replace(
        spec,
        time_unit=2 * spec.time_unit,
        transfers=transfers,
        pipelines=pipelines,
        exceptions=tuple(e._replace(ticks=2 * e.ticks) for e in spec.exceptions),
        pairs=tuple(p._replace(ticks=2 * p.ticks) for p in spec.pairs),
        exceptional_pairs=tuple(p._replace(ticks=2 * p.ticks) for p in spec.exceptional_pairs),
    )
