"""Program → what it would gain if a demand were eased, found by solving again and not guessed: one
activation more on a rank whose idle time memory causes, or on all of them; a transfer of the
critical chain halved; a rule left out; another order than the one that was written.

Every search starts from the Program's own order, so that an easing can only help, and the Spec at
hand gets the same chance, so that luck is no gain. What the author fixed of the order stays; where
he fixed all of it, it is timed anew. What a bound shows to gain nothing is not tried.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace as changed
from fractions import Fraction
from itertools import pairwise
from time import monotonic
from typing import NamedTuple

from msgspec.structs import replace

from stretto.compiler.analysis.balance import moved_spec
from stretto.compiler.analysis.explanation import Explanation
from stretto.compiler.analysis.gains import Gain
from stretto.compiler.analysis.reoptimize import (
    Units,
    better,
    least,
    step_spec,
    timed,
    units_of,
)
from stretto.compiler.order.budget import Budget
from stretto.compiler.problem.computations import has_collectives
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.figures import at_most
from stretto.compiler.problem.spec import Limit, Spec
from stretto.compiler.program.claims import claims
from stretto.compiler.program.collectives import without_collectives
from stretto.compiler.program.program import Program
from stretto.compiler.program.timeline import time

CANDIDATES = 3
"""At most so many ranks, so many transfers and so many rules are tried."""

SHORTEST = 0.3
"""Seconds; a shorter search is not begun."""


MUCH = Fraction(1, 20)  # above its bound, and an order may well be a poor one

SEARCHED_AGAIN = "nothing eased, but searched again"


class Easing(NamedTuple):
    """A Spec with one demand eased, in words `what`. `search`: whether to look for an order of it,
    or to keep the Program's order and time it again."""

    what: str
    spec: Spec
    search: bool


def what_would_help(
    program: Program,
    explained: Explanation,
    budget: Budget,
    tell: Callable[[str], None] = lambda words: None,
) -> tuple[tuple[Gain, ...], tuple[str, ...]]:
    """The easings that gain something, the largest gain first, and what else is to be said. The
    budget's seconds are shared out among them; where it has an effort, each gets that and no clock
    is looked at. `program.spec.written` must hold what was written of an order that the compiler
    completed, which plan files do not keep. `tell` hears what is being tried."""
    beside = has_collectives(program.spec)
    program = without_collectives(program)
    spec, units = step_spec(program), units_of(program)
    written = bool(spec.order) and all(spec.order)
    if written:
        spec = replace(spec, written=())
    ways = list(_easings(explained, program, spec, written))
    trials = EasingTrials(units, budget, len(ways), tell)
    now, gains = _as_it_is(program, spec, trials)
    try:
        if ways and not written:
            now = _searched_again(spec, trials, now, gains)
        for easing in ways:
            after = trials.value(easing, now)
            if after is not None and after < now:
                gains.append(Gain(easing.what, now, after))
    except KeyboardInterrupt:
        trials.why = "interrupted"
    gains.sort(key=lambda one: (one.after, one.before))
    tried = {*trials.useless, *trials.missed, *(gain.what for gain in gains)}
    without = [one.what for one in ways if one.what not in tried and one.what in trials.tried]
    trials.missed += [one.what for one in ways if one.what not in {*tried, *without}]
    notes = list(_notes(spec, trials, without))
    if not written:
        notes = [*_open(spec, now), *notes]
    if explained.moves and not written and (spec.pairs or spec.exceptional_pairs):
        notes.append("no move is searched anew where pairs have costs of their own")
    if beside:
        notes.append("these are times of the computations alone, without what runs beside them")
    return tuple(gains), tuple(notes)


def _open(spec: Spec, now: Fraction) -> Iterator[str]:
    """That the search may be at fault, not what binds the order, where that is far from its
    bound."""
    bound = Fraction(least(expand(spec)), spec.time_unit)
    if bound and now / bound - 1 > MUCH:
        yield (
            f"the order is at most {at_most(now / bound - 1)} from optimal as it is: a longer "
            "search (`stretto compile --time-limit`) may gain as much, without easing anything"
        )


def _notes(spec: Spec, trials: "EasingTrials", without: list[str]) -> Iterator[str]:
    """What was no gain, and why it was none."""
    if trials.useless:
        yield f"no gain, as the lower bound shows: {'; '.join(trials.useless)}"
    if without:
        yield f"no gain was found: {'; '.join(without)}"
    if trials.missed:
        yield f"not tried, {trials.why}: {'; '.join(trials.missed)}"
    if spec.jitter[0]:
        yield "these are times without jitter"


def _as_it_is(program: Program, spec: Spec, trials: "EasingTrials") -> tuple[Fraction, list[Gain]]:
    """The value of the plan's order, and what it gains where no receive is posted late."""
    timeline = time(program)
    ticks = timeline.span if spec.minimize == "span" else timeline.makespan
    now = Fraction(ticks, spec.time_unit)
    free = Fraction(timed(trials.units, expand(spec)), spec.time_unit)
    if free < now:
        return free, [Gain("receives posted as early as they can be of use", now, free)]
    return now, []


def _searched_again(
    spec: Spec, trials: "EasingTrials", now: Fraction, gains: list[Gain]
) -> Fraction:
    """The value that easings are measured against: what is found without easing anything."""
    after = trials.value(Easing(SEARCHED_AGAIN, spec, True), now)
    trials.useless, trials.missed = [], []
    if after is None or after >= now:
        return now
    if not spec.jitter[0]:
        gains.append(Gain(SEARCHED_AGAIN, now, after))
    return after


class EasingTrials:
    """Shares the budget out among what is still to be tried. `tried`, all that was; `useless`, what
    a bound shows to gain nothing; `missed`, what was not tried, and `why`."""

    def __init__(self, units: Units, budget: Budget, many: int, tell: Callable[[str], None]):
        self.units, self.budget, self.tell = units, budget, tell
        self.left = many + 1
        self.end = budget.deadline()
        self.tried: list[str] = []
        self.useless: list[str] = []
        self.missed: list[str] = []
        self.why = "for want of time (see --time-limit)"

    def value(self, easing: Easing, now: Fraction) -> Fraction | None:
        """The value under the easing, if there was time to look for it."""
        unit, self.left = easing.spec.time_unit, self.left - 1
        if self.budget.effort is None and monotonic() >= self.end:
            self.missed.append(easing.what)
            return None
        problem = expand(easing.spec)
        if not easing.search:
            self.tried.append(easing.what)
            return Fraction(timed(self.units, problem), unit)
        if Fraction(least(problem), unit) >= now:
            self.useless.append(easing.what)
            return now
        seconds = self.budget.seconds
        if self.budget.effort is None:
            rest = self.end - monotonic()  # where it is short, the likeliest are tried
            seconds = max(rest / (self.left + 1), min(rest, SHORTEST))
            if seconds < SHORTEST:
                self.missed.append(easing.what)
                return None
        self.tell(easing.what)
        found = better(
            self.units, problem, changed(self.budget, seconds=seconds, until=None, cache=False)
        )
        self.tried.append(easing.what)
        return now if found is None else min(now, Fraction(found, unit))


# ---------------------------------------------------------------------------- easings


def _easings(
    explained: Explanation, program: Program, spec: Spec, written: bool
) -> Iterator[Easing]:
    """What may be tried: the likeliest first."""
    if written:
        yield from _other_order(program, spec)
    else:
        yield from _moves(explained, spec)
        yield from _memory(explained, spec)
    yield from _transfers(explained, spec, not written)
    if not written:
        yield from _rules(spec)
        if any(spec.written):
            yield Easing("the whole order left to the compiler", _free(program, spec), True)


def _other_order(program: Program, spec: Spec) -> Iterator[Easing]:
    """Any order, in the memory that this one takes or may take; and with an activation more."""
    free = _free(program, spec)
    room = "within the limits" if spec.limits and all(spec.limits) else "in the same memory"
    yield Easing(f"another order, {room}", free, True)
    if not _passing(spec):
        roomier = _roomier(free, list(range(spec.ranks)))
        yield Easing("another order, with one more activation on every rank", roomier, True)


def _free(program: Program, spec: Spec) -> Spec:
    """The Spec without its order. Ranks without a limit take no more than they do now."""
    halves = any(o.kind == "I" for row in units_of(program) for unit in row for o in unit)
    limits = zip(spec.limits or [None] * spec.ranks, claims(program).activations, strict=True)
    return replace(
        spec,
        order=("",) * spec.ranks,
        written=(),
        limits=tuple(limit or Limit(peak, 0) for limit, peak in limits),
        split_backward=spec.split_backward or halves,
    )


def _passing(spec: Spec) -> bool:
    """Whether nothing stays in memory."""
    return all(line.forward_only for line in spec.pipelines)


def _memory(explained: Explanation, spec: Spec) -> Iterator[Easing]:
    """One activation more on the ranks that wait longest for memory, and on all of them."""
    waits = {rank: idle["memory"] for rank, idle in enumerate(explained.idle) if idle["memory"]}
    limits = [rank for rank, limit in enumerate(spec.limits) if limit is not None]
    if not limits:
        return
    if len(limits) > 1:
        yield Easing("one more activation on every rank", _roomier(spec, limits), True)
    ranks = sorted(waits, key=lambda rank: -waits[rank]) if len(limits) > 1 else limits
    for rank in ranks[:CANDIDATES]:
        yield Easing(f"one more activation on rank {rank}", _roomier(spec, [rank]), True)


def _roomier(spec: Spec, ranks: list[int]) -> Spec:
    """The Spec with room for one more of the largest activations of each of these ranks."""
    limits = list(spec.limits)
    for rank in ranks:
        sizes = [s.activation for line in spec.pipelines for s in line.stages if s.rank == rank]
        limit = limits[rank]
        if limit is not None:
            limits[rank] = Limit(limit.grains + max(sizes, default=0), limit.at)
    return replace(spec, limits=tuple(limits))


def _transfers(explained: Explanation, spec: Spec, search: bool) -> Iterator[Easing]:
    """The transfers of the critical chain, those that it takes most often first, halved."""
    ticks = {(t.source, t.target): t.ticks for t in spec.transfers}
    taken = Counter((a.rank, b.rank) for a, b in pairwise(explained.chain) if a.rank != b.rank)
    taken = Counter({way: n * ticks[way] for way, n in taken.items() if ticks.get(way)})
    ways = taken.most_common(CANDIDATES)
    if len(ways) > 1:
        yield Easing("all transfers halved", _quicker(spec, set(ticks)), search)
    for (source, target), _ in ways:
        what = f"transfer from {source} to {target} halved"
        yield Easing(what, _quicker(spec, {(source, target)}), search)


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


def _moves(explained: Explanation, spec: Spec) -> Iterator[Easing]:
    """The best of the moves of work, with another order."""
    for move in explained.moves[:1]:
        eased = moved_spec(spec, move)
        if eased is not None:
            yield Easing(f"{move.what(spec)}, ordered anew", eased, True)


def _rules(spec: Spec) -> Iterator[Easing]:
    """Rules left out, statement by statement."""
    for at in list(dict.fromkeys(rule.at for rule in spec.rules))[:CANDIDATES]:
        rules = tuple(rule for rule in spec.rules if rule.at != at)
        what = f"without the rule of line {spec.spans[at].line}"
        yield Easing(what, replace(spec, rules=rules), True)
