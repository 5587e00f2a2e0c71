"""Spec → the evidence of a certificate: of the best bound that the checker can follow, with the
heads and tails that the checker itself works out of the instance."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from msgspec.structs import replace

from stretto.compiler.bounds.best import best, bound_context
from stretto.compiler.bounds.one_machine import JacksonJob, critical_set
from stretto.compiler.bounds.rank_as_stage import rounds
from stretto.compiler.certificate.checker.bound import BoundCheck
from stretto.compiler.certificate.checker.graph import TickMap, TypedOp
from stretto.compiler.certificate.checker.instance import Instance, Refuted
from stretto.compiler.problem.spec import Spec

Case = dict[str, Any]
"""One case of the evidence; its keys are described in `checker.bound`."""


def split_backwards(spec: Spec) -> bool:
    """Whether backwards may run as I and W: the file says so, or its order has them so."""
    halves = (op[0] == "I" for units in spec.written for unit in units for op in unit.operations)
    return spec.split_backward or any(halves)


def evidence(spec: Spec, instance: Instance) -> dict[str, Any]:
    """The evidence; `instance` is the Spec as the certificate has it."""
    context = bound_context(replace(spec, split_backward=split_backwards(spec)))
    relaxed = context.relaxed
    makespan = not relaxed.size or spec.minimize == "makespan"
    draft: dict[str, Any] = {
        "rank": 0 if makespan else best(context).subject.rank,
        "rounds": rounds(relaxed),
        "shares": [
            [[list(relaxed.classes[c][:4]), ticks[0]] for c, ticks in shares.items() if ticks]
            for shares in context.shares
        ],
        "cases": [],
    }
    if not relaxed.size:
        return draft
    checker = BoundCheck(instance, draft)
    if makespan:
        return {**draft, "cases": [_best(checker, *checker.sharpened(draft["rounds"]))]}
    cases = []
    for first in sorted(checker.firsts(draft["rank"]), key=str):
        case = _best(checker, *checker.bracket(draft["rank"], first))
        cases.append({**case, "first": first and _operation(first)})
    return {**draft, "cases": cases}


def _operation(one: TypedOp) -> list[Any]:
    (kind, p, s, k), m = one
    return [kind, p, s, m, k]


def _best(checker: BoundCheck, heads: TickMap, tails: TickMap) -> Case:
    """The case of the largest value."""
    found: tuple[int, Case] = (-1, {"by": "chain"})
    for case in _cases(checker, heads, tails):
        with suppress(Refuted):
            value = checker.case(case, heads, tails)
            if value > found[0]:
                found = value, case
    return found[1]


def _cases(checker: BoundCheck, heads: TickMap, tails: TickMap) -> Iterator[Case]:
    """A case for every theorem and every rank of which it says something."""
    makespan = checker.instance.minimize == "makespan"
    if makespan:
        yield {"by": "chain"}
    for on in range(checker.instance.ranks):
        own = [one for one in heads if checker.graph.rank[one[0]] == on]
        alone = makespan or on == checker.evidence["rank"]
        for share, ticks in enumerate(checker.shares):
            if case := _packed([(heads[o], ticks[o[0]], tails[o]) for o in own]):
                yield {"by": "busy", "on": on, "share": share, **case}
            one = checker.one_stage(on, ticks, heads, tails) if alone else None
            if one is not None:
                jobs = [(one.heads[o], one.graph.ticks[o[0]], one.tails[o]) for o in one.heads]
                if case := _packed(jobs):
                    yield {"by": "merged", "on": on, "share": share, **case}
        if own and alone:
            yield {"by": "window", "on": on}
            yield {"by": "little", "on": on}


def _packed(jobs: list[JacksonJob]) -> Case | None:
    """Between which head and tail the most is to be done; None where nothing is connected."""
    connected = [job for job in jobs if job[0] >= 0 and job[2] >= 0]
    if not connected:
        return None
    group = critical_set(connected)
    return {"head": group.head, "tail": group.tail}
