"""Program of stages that are cut into parts → what its certificate says: the instance in plain
figures, when every part runs, and the evidence for the bound."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from stretto.compiler.bounds.one_machine import critical_set
from stretto.compiler.certificate.checker.instance import Refuted
from stretto.compiler.certificate.checker.parts_bound import PartsBoundCheck
from stretto.compiler.certificate.checker.parts_instance import PART_FIGURES
from stretto.compiler.problem.kinds import half
from stretto.compiler.problem.spec import Operation, Spec, backward_kinds
from stretto.compiler.program.program import Program
from stretto.compiler.program.timeline import time


def parts_schedule(program: Program) -> list[list[Any]]:
    """For every rank its parts by start, then as its list has them: start, end, in ticks, and the
    operation."""
    return [[[t.start, t.end, _op(t.operation)] for t in row] for row in time(program).ranks]


def parts_instance(spec: Spec) -> dict[str, Any]:
    """What is to be done, in ticks and grains, with the keys that `checker.parts_shape`
    describes."""
    return {
        "ranks": spec.ranks,
        "minimize": spec.minimize,
        "split": spec.split_backward,
        "streams": list(spec.streams),
        "pipelines": [
            {
                "name": line.name,
                "microbatches": line.microbatches,
                "forward_only": line.forward_only,
                "feeds": [list(feed) for feed in line.feeds],
                "stages": [_stage(spec, p, s) for s in range(len(line.stages))],
            }
            for p, line in enumerate(spec.pipelines)
        ],
        "transfers": [list(one) for one in spec.transfers],
        "limits": [limit and limit.grains for limit in spec.limits] or [None] * spec.ranks,
        "exceptions": [[_op(o), ticks] for o, ticks in spec.exceptions if _runs(spec, o)],
        "rules": [
            [_op(_meant(spec, rule.later, "first")), _op(_meant(spec, rule.earlier, "last"))]
            for rule in spec.rules
        ],
        "fixed": _fixed(spec),
    }


def _stage(spec: Spec, p: int, s: int) -> dict[str, Any]:
    stage = spec.pipelines[p].stages[s]
    parts = [
        [part.stream, *(getattr(figures, key) for key in PART_FIGURES[1:])]
        for part, figures in zip(spec.parts[p][s], stage.parts, strict=True)
    ]
    return {
        "rank": stage.rank,
        "activation": stage.activation,
        "kept": stage.kept,
        "parts": parts,
    }


def _kinds(spec: Spec, o: Operation) -> tuple[str, ...]:
    """The kinds of operations that the part of this one has."""
    if spec.pipelines[o.pipeline].forward_only:
        return ("F",)
    stream = spec.parts[o.pipeline][o.stage][o.part].stream
    return ("F", *backward_kinds(stream, spec.split_backward))


def _runs(spec: Spec, o: Operation) -> bool:
    return o.kind in _kinds(spec, o)


def _meant(spec: Spec, o: Operation, which: Any) -> Operation:
    """What a rule speaks of: of a backward that is split its half."""
    return o if _runs(spec, o) else half(o, which)


def _fixed(spec: Spec) -> list[Any]:
    """The part of an order that was written. A complete one does not constrain the bound."""
    many = sum(len(unit.operations) for row in spec.written for unit in row)
    each = (
        line.microbatches * len(_kinds(spec, Operation("F", p, s, 0, part=k)))
        for p, line in enumerate(spec.pipelines)
        for s, chain in enumerate(spec.parts[p])
        for k in range(len(chain))
    )
    if many == sum(each):
        return []
    return [[_op(o) for unit in row for o in unit.operations] for row in spec.written]


def _op(o: Operation) -> list[Any]:
    return [o.kind, o.pipeline, o.stage, o.microbatch, o.part]


def parts_evidence(checker: PartsBoundCheck) -> dict[str, Any]:
    """What proves the largest bound that the checker can follow."""
    best: tuple[int, dict[str, Any]] = (-1, {})
    for one in _cases(checker):
        with suppress(Refuted):
            best = max(best, (checker.value(one), one), key=lambda found: found[0])
    return best[1]


def _cases(checker: PartsBoundCheck) -> Iterator[dict[str, Any]]:
    of, ticks = checker.instance, checker.graph.ticks
    span = of.minimize == "span"
    nothing = {"rank": 0, "stream": 0, "head": 0, "tail": 0}
    ranks = sorted({of.lane(one)[0] for one in of.count})
    for rank in ranks if span else [0]:
        yield {"by": "chain", **nothing, "rank": rank}
    for rank in ranks:
        heads, tails = checker.times(rank)
        for stream in range(of.streams):
            on = {**nothing, "rank": rank, "stream": stream}
            if own := checker.on(rank, stream):
                group = critical_set([(heads[o], ticks[o], tails[o]) for o in own])
                yield {"by": "busy", **on, "head": group.head, "tail": group.tail}
            if not span:
                yield {"by": "window", **on}
            if rank in checker.chains and (jobs := checker.merged(rank, stream, heads, tails)):
                group = critical_set(jobs)
                yield {"by": "merged", **on, "head": group.head, "tail": group.tail}
