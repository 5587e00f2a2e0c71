"""Program → certificate: the start times of a schedule and the evidence of a lower bound, as data
that `certify` checks without us. Of the plan's own bound that is left out which the checker does
not follow: what CP-SAT found by looking at every order, and some refinements where micro-batches
differ or units overlap. The certificate then says less, and names both.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgspec

from stretto.compiler.bounds.best import best, bound_context
from stretto.compiler.bounds.bound import Bound as Stated
from stretto.compiler.bounds.context import BoundContext
from stretto.compiler.bounds.one_machine import critical_set
from stretto.compiler.bounds.rank_as_stage import rounds
from stretto.compiler.bounds.relaxation import complete
from stretto.compiler.certificate.checker.bound import Bound
from stretto.compiler.certificate.checker.instance import Instance, Refuted
from stretto.compiler.certificate.checker.relaxation import Place, Times
from stretto.compiler.problem.spec import NONE, Operation, Spec, number
from stretto.compiler.program.program import Claims, Program
from stretto.compiler.program.timeline import Timed, time


def certificate(program: Program, claims: Claims, bound: Stated | None = None) -> str:
    """The certificate of a Program with what is claimed of it, one JSON object on a line. `bound`:
    the plan's, which may be more than the evidence proves."""
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
    }
    of = Instance(json.loads(json.dumps(found["instance"])))
    found["evidence"] = evidence(spec, of)
    proven = Bound(of, json.loads(json.dumps(found["evidence"]))).value()
    found["claims"] = {
        "makespan": claims.makespan,
        "span": claims.span,
        "peaks": list(claims.activations),
        "bound": proven,
    }
    if bound is not None:
        found["stated"] = {"bound": bound.ticks, "reason": bound.reason}
    return json.dumps(found, separators=(",", ":")) + "\n"


def unproven(text: str) -> str | None:
    """What the plan says of its bound beyond what the certificate proves, in words."""
    found = json.loads(text)
    stated, proven = found.get("stated"), found["claims"]["bound"]
    if not stated or stated["bound"] <= proven:
        return None
    more, less = (number(ticks, found["time_unit"]) for ticks in (stated["bound"], proven))
    return (
        f"the plan's own lower bound of {more} ({stated['reason']}); "
        f"the certificate confirms {less}"
    )


_STAGE = ("rank", "F", "B", "I", "W", "activation", "kept")
"""What a certificate has of a stage."""


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
                "stages": [{key: getattr(stage, key) for key in _STAGE} for stage in line.stages],
            }
            for line in spec.pipelines
        ],
        "transfers": [list(one) for one in spec.transfers],
        "limits": [limit and limit.grains for limit in spec.limits] or [None] * spec.ranks,
        "pairs": [[list(p.forward), p.kind, list(p.backward), p.ticks] for p in spec.pairs],
        "exceptions": [[_op(o), ticks] for o, ticks in spec.exceptions],
        "exceptional_pairs": [[_op(f), _op(b), ticks] for f, b, ticks in spec.exceptional_pairs],
        "rules": [[_op(rule.later), _op(rule.earlier)] for rule in spec.rules],
        "fixed": _fixed(spec),
    }


def _fixed(spec: Spec) -> list[Any]:
    """The part of an order that was written. One of all operations counts for nothing: the bound
    is to say what another could gain."""
    if complete(spec):
        return []
    return [[[_op(o) for o in unit.operations] for unit in units] for units in spec.written]


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


def evidence(spec: Spec, of: Instance) -> dict[str, Any]:
    """Of the best bound that the checker can follow, with what it works out of the instance."""
    split = spec.split_backward or _halves(spec)
    context = bound_context(msgspec.structs.replace(spec, split_backward=split))
    size = sum(c.size for c in context.relaxed.classes)
    draft: dict[str, Any] = {
        "rank": 0,
        "rounds": rounds(size),
        "shares": [_shares(context, share) for share in context.shares],
        "cases": [],
    }
    if not size:
        return draft
    checker = Bound(of, draft)
    if spec.minimize == "makespan":
        heads, tails = checker.sharpened(draft["rounds"])
        return {**draft, "cases": [_best(checker, range(spec.ranks), heads, tails)]}
    rank = best(context).subject.rank
    checker.evidence = {**draft, "rank": rank}
    cases = []
    for first in sorted(checker.firsts(rank), key=str):
        heads, tails = checker.bracket(rank, first)
        case = _best(checker, range(spec.ranks), heads, tails)
        cases.append({**case, "first": first and _place(first)})
    return {**checker.evidence, "cases": cases}


def _shares(context: BoundContext, shares: dict[int, list[int]]) -> list[Any]:
    return [
        [list(context.relaxed.classes[c][:4]), ticks[0]] for c, ticks in shares.items() if ticks
    ]


def _place(place: Place) -> list[Any]:
    (kind, p, s, k), m = place
    return [kind, p, s, m, k]


def _best(checker: Bound, ranks: range, heads: Times, tails: Times) -> dict[str, Any]:
    """The case of the largest value."""
    found: tuple[int, dict[str, Any]] = (-1, {"by": "chain"})
    for case in _cases(checker, ranks, heads, tails):
        with suppress(Refuted):
            value = checker.case(case, heads, tails)
            if value > found[0]:
                found = value, case
    return found[1]


def _cases(checker: Bound, ranks: range, heads: Times, tails: Times) -> Iterator[dict[str, Any]]:
    """Every theorem of every rank."""
    makespan = checker.instance.minimize == "makespan"
    if makespan:
        yield {"by": "chain"}
    for on in ranks:
        for share, ticks in enumerate(checker.shares):
            own = [one for one in heads if checker.net.rank[one[0]] == on]
            if case := _packed([(heads[o], ticks[o[0]], tails[o]) for o in own]):
                yield {"by": "busy", "on": on, "share": share, **case}
            if not makespan and on != checker.evidence["rank"]:
                continue
            one = checker.one(on, ticks, heads, tails)
            if one is not None:
                head, tail, net = one
                if case := _packed([(head[o], net.ticks[o[0]], tail[o]) for o in head]):
                    yield {"by": "merged", "on": on, "share": share, **case}
        if own and (makespan or on == checker.evidence["rank"]):
            yield {"by": "window", "on": on}
            yield {"by": "little", "on": on}


def _packed(jobs: list[tuple[int, int, int]]) -> dict[str, Any] | None:
    """Between which head and tail the most is to be done."""
    connected = [job for job in jobs if job[0] >= 0 and job[2] >= 0]
    if not connected:
        return None
    group = critical_set(connected)
    return {"head": group.head, "tail": group.tail}
