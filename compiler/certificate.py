"""Program → certificate: the start times of a schedule and the evidence of a lower bound, as data
that `certify` checks without us. The bound is over every order of the instance; what a part of an
order or rules add to the plan's own bound is left out, so that it may be a little lower.
"""

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec

from stretto.compiler.bounds.best import (
    Finding,
    Ground,
    best,
    bracket,
    filled,
    ground,
)
from stretto.compiler.bounds.chains import Net, Times, net
from stretto.compiler.bounds.fifo import fifo
from stretto.compiler.bounds.memory import memory
from stretto.compiler.bounds.model import Model, Place
from stretto.compiler.certify import Instance
from stretto.compiler.certify_bound import Bound
from stretto.compiler.program import Claims, Program
from stretto.compiler.spec import NONE, Operation, Spec
from stretto.compiler.timeline import Timed, time


def certificate(program: Program, claims: Claims) -> str:
    """The certificate of a Program with what is claimed of it, one JSON object on a line."""
    spec = program.spec
    if program.name == "eval":
        lines = tuple(msgspec.structs.replace(line, forward_only=True) for line in spec.pipelines)
        spec = msgspec.structs.replace(spec, pipelines=lines, rules=(), written=())
    found: dict[str, Any] = {
        "format": "stretto-certificate",
        "version": 1,
        "schedule_name": spec.name,
        "time_unit": spec.time_unit,
        "size_unit": spec.size_unit,
        "instance": instance(spec),
        "schedule": [list(_units(row)) for row in time(program).ranks],
        "evidence": evidence(spec),
    }
    bound = Bound(Instance(json.loads(json.dumps(found["instance"]))), found["evidence"]).value()
    found["claims"] = {
        "makespan": claims.makespan,
        "span": claims.span,
        "peaks": list(claims.activations),
        "bound": bound,
    }
    return json.dumps(found, separators=(",", ":")) + "\n"


def instance(spec: Spec) -> dict[str, Any]:
    """What is to be done."""
    return {
        "ranks": spec.ranks,
        "minimize": spec.minimize,
        "split": spec.split_backward or _halves(spec),
        "slices": spec.slices,
        "pipelines": [
            {
                "name": line.name,
                "microbatches": line.microbatches,
                "forward_only": line.forward_only,
                "feeds": [list(feed) for feed in line.feeds],
                "stages": [msgspec.structs.asdict(stage) for stage in line.stages],
            }
            for line in spec.pipelines
        ],
        "transfers": [list(one) for one in spec.transfers],
        "limits": [limit and limit.grains for limit in spec.limits] or [None] * spec.ranks,
        "pairs": [[list(p.forward), p.kind, list(p.backward), p.ticks] for p in spec.pairs],
        "exceptions": [[_op(o), ticks] for o, ticks in spec.exceptions],
        "exceptional_pairs": [[_op(f), _op(b), ticks] for f, b, ticks in spec.exceptional_pairs],
        "rules": [[_op(rule.later), _op(rule.earlier)] for rule in spec.rules],
    }


def _halves(spec: Spec) -> bool:
    return any(op[0] == "I" for units in spec.written for unit in units for op in unit.operations)


def _op(operation: Operation) -> list[Any]:
    return list(operation[:5])


def _units(row: tuple[Timed, ...]) -> Iterator[list[Any]]:
    """Start, end and operations of a rank's units."""
    before: Timed | None = None
    unit: list[Any] = []
    for timed in row:
        if before is not None and before.unit == timed.unit != NONE:
            unit[2].append(_op(timed.operation))
        else:
            if unit:
                yield unit
            unit = [timed.start, timed.end, [_op(timed.operation)]]
        before = timed
    if unit:
        yield unit


# ---------------------------------------------------------------------------- evidence


def evidence(spec: Spec) -> dict[str, Any]:
    """Of the best bound that the checker can follow."""
    base = _plain(spec)
    found = best(base)
    if found.by == "nothing":
        return {"by": "chain", "rank": 0, "cases": []}
    firsts: list[Place | None] = [found.first]
    if spec.minimize == "span" and found.first is not None:
        from stretto.compiler.bounds.span import firsts as candidates

        firsts = [*(candidates(base.model, found.rank, base.holds) or [])]
    return {
        "by": found.by,
        "rank": found.rank,
        "cases": [_case(base, found._replace(first=first)) for first in firsts],
    }


def _plain(spec: Spec) -> Ground:
    """The ground that the checker stands on: no rules, no written part, micro-batches as quick as
    the quickest, memory edges of the first two forms, nothing summed where units overlap."""
    split = spec.split_backward or _halves(spec)
    free = msgspec.structs.replace(spec, rules=(), written=(), split_backward=split)
    base = ground(free)
    model, path = base.model, base.net.path
    holds = base.holds
    if spec.rules or spec.exceptions:
        holds = [False] * len(holds)
        model = replace(model, work=[[min(w, default=0)] * len(w) for w in model.work])
        path = [[min(p, default=0)] * len(p) for p in path]
    edges = [*fifo(model, holds), *memory(model, holds, third=False)]
    made = net(model, path, base.net.ticks, edges)
    assert made is not None  # a circle would have been in the ground
    if base.pairs:
        empty: list[list[tuple[int, int]]] = [[] for _ in model.strands]
        made = replace(made, near_before=empty, near_after=empty)
    return replace(base, model=model, holds=holds, net=made, plain=True)


def _case(base: Ground, found: Finding) -> dict[str, Any]:
    model = base.model
    head, tail = bracket(base, found.rank, found.first)
    case: dict[str, Any] = {"first": _place(model, found.first) if found.first else None}
    own = [c for c in model.on(found.on) if model.strands[c].many]
    firsts: list[Place] = [(c, 0) for c in own]
    lasts: list[Place] = [(c, model.strands[c].many - 1) for c in own]
    if found.by == "chain":
        place = _critical(base, head, tail)
        firsts, lasts = [place], [place]
        case["operation"] = _place(model, place)
    elif found.by == "busy":
        places, group = filled(base, found)
        ranges = _ranges([places[job] for job in group.jobs], all(base.holds))
        firsts = [(c, first) for c, first, _ in ranges]
        lasts = [(c, last) for c, _, last in ranges]
        case["operations"] = [[_strand(model, c), a, b] for c, a, b in ranges]
        shares = base.shares[found.share]
        case["shares"] = [[_strand(model, c), ticks[0]] for c, ticks in shares.items() if ticks]
    else:
        case["rank"] = found.rank
        if not all(base.holds):
            firsts, lasts = [], []
        if found.by == "little":
            case["stays"] = [
                [_place(model, (c, 0)) for c in _stay(base.net, token.take, token.give)]
                for token in model.tokens(found.rank)
            ]
    heads, tails = _Facts(base.net, head, found.first, True), _Facts(base.net, tail, None, False)
    for place in firsts:
        heads.prove(place)
    for place in lasts:
        tails.prove(place)
    return {**case, "heads": heads.listed, "tails": tails.listed}


def _critical(base: Ground, head: Times, tail: Times) -> Place:
    """An operation of a longest chain."""
    path = base.net.path
    return max(base.net.order, key=lambda p: head[p[0]][p[1]] + path[p[0]][p[1]] + tail[p[0]][p[1]])


def _ranges(places: list[Place], holds: bool) -> list[tuple[int, int, int]]:
    """Places as runs of micro-batches of a strand; one by one where these need not run in turn."""
    found: list[tuple[int, int, int]] = []
    for c, i in sorted(places):
        if holds and found and found[-1][0] == c and found[-1][2] == i - 1:
            found[-1] = (c, found[-1][1], i)
        else:
            found.append((c, i, i))
    return found


def _place(model: Model, place: Place) -> list[Any]:
    strand = model.strands[place[0]]
    return [strand.kind, strand.pipeline, strand.stage, place[1], strand.slice]


def _strand(model: Model, c: int) -> list[Any]:
    return list(model.strands[c][:4])


def _stay(made: Net, take: int, give: int) -> list[int]:
    """The strands of a longest chain from one to the other within a micro-batch."""
    from stretto.compiler.bounds.memory import below, ranked

    lower = below(made.model)
    best: dict[int, tuple[int, list[int]]] = {take: (0, [take])}
    for c in ranked(made.model):
        if c == take or not lower[give] >> c & 1:
            continue
        ways = [
            (best[a][0] + made.path[a][0] + lag, [*best[a][1], c])
            for a, shift, lag in made.into[c]
            if not shift and a in best
        ]
        if ways:
            best[c] = max(ways)
    return best[give][1]


class _Facts:
    """Heads or tails as facts, each after those that it follows from. A tail is a head of the net
    turned round."""

    def __init__(self, made: Net, times: Times, first: Place | None, forwards: bool):
        self.net, self.times, self.first, self.forwards = made, times, first, forwards
        self.edges = made.into if forwards else made.out
        self.near = made.near_before if forwards else made.near_after
        self.listed: list[dict[str, Any]] = []
        self.known: set[Place] = set() if first is None else {first}

    def prove(self, goal: Place) -> None:
        """List what proves the time of `goal`."""
        todo = [goal]
        while todo:
            place = todo[-1]
            if place in self.known:
                todo.pop()
                continue
            chains = self.reasons(place)
            missing = [chain[0] for chain in chains if chain[0] not in self.known]
            if missing:
                todo.extend(missing)
                continue
            self.known.add(todo.pop())
            self.listed.append(
                {
                    "op": _place(self.net.model, place),
                    "ticks": self.at(place),
                    "from": [[_place(self.net.model, one) for one in chain] for chain in chains],
                }
            )

    def at(self, place: Place) -> int:
        return self.times[place[0]][place[1]]

    def neighbours(self, place: Place) -> Iterator[tuple[Place, int]]:
        """What comes right before (or after) a place, and the ticks in between."""
        for other, shift, lag in self.edges[place[0]]:
            j = place[1] - shift if self.forwards else place[1] + shift
            if 0 <= j < self.net.model.strands[other].many:
                yield (other, j), lag

    def reasons(self, place: Place) -> list[list[Place]]:
        """The chains that a fact follows from: along single edges as far back as they go, or one
        from each operation of the rank that runs before."""
        chain = [place]
        while self.at(chain[0]) > 0 and chain[0] != self.first:
            here = chain[0]
            before = [
                other
                for other, lag in self.neighbours(here)
                if self.at(other) >= 0
                and self.at(other) + self.net.path[other[0]][other[1]] + lag == self.at(here)
            ]
            if not before or (before[0] in self.known and len(chain) > 1):
                break
            chain.insert(0, before[0])
        if len(chain) > 1:
            return [chain]
        if self.at(place) == 0:
            return []
        return self.together(place)

    def together(self, place: Place) -> list[list[Place]]:
        """Chains from operations that run one after another before this one."""
        step = -1 if self.forwards else 1
        places = [(c, place[1] + step * shift) for c, shift in self.near[place[0]]]
        there = [p for p in places if 0 <= p[1] < self.net.model.strands[p[0]].many]
        there.sort(key=self.at, reverse=True)
        total = 0
        for k, (c, i) in enumerate(there):
            total += self.net.ticks[c][i]
            if self.at((c, i)) + total == self.at(place):
                return [self.route(one, place) for one in there[: k + 1]]
        raise AssertionError("a time follows from its neighbours")

    def route(self, start: Place, goal: Place) -> list[Place]:
        """A shortest chain of edges from `start` to `goal`."""
        came: dict[Place, Place | None] = {goal: None}
        todo = deque([goal])
        while todo:
            place = todo.popleft()
            if place == start:
                break
            for other, _ in self.neighbours(place):
                inside = other[1] >= start[1] if self.forwards else other[1] <= start[1]
                if inside and other not in came:
                    came[other] = place
                    todo.append(other)
        chain, at = [], start
        while at is not None:
            chain.append(at)
            at = came[at]  # type: ignore[assignment]
        return chain
