"""Program → certificate: the start times of a schedule and the evidence of a lower bound, as data
that `certify` checks without us. Left out is what the checker does not follow of the plan's own
bound: what CP-SAT proved by looking at every order, and some refinements where micro-batches differ
or units overlap. The certificate then proves less, and states both figures.
"""

import json
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import msgspec

from stretto.compiler.bounds import Bound
from stretto.compiler.bounds.relaxation import complete
from stretto.compiler.certificate.checker.bound import BoundCheck
from stretto.compiler.certificate.checker.instance import Instance, Refuted
from stretto.compiler.certificate.checker.parts_bound import PartsBoundCheck
from stretto.compiler.certificate.checker.parts_instance import ChainInstance
from stretto.compiler.certificate.checker.parts_shape import PARTS_FORMAT
from stretto.compiler.certificate.evidence import evidence, split_backwards
from stretto.compiler.certificate.parts import parts_evidence, parts_instance, parts_schedule
from stretto.compiler.problem.computations import has_collectives
from stretto.compiler.problem.figures import figure
from stretto.compiler.problem.problem import Problem
from stretto.compiler.problem.spec import NONE, Operation, Spec
from stretto.compiler.program.program import Claims, Program
from stretto.compiler.program.timeline import Timed, time


def certificate(
    program: Program, claims: Claims, bound: Bound | None = None, plan: str | None = None
) -> str:
    """The certificate of a Program with what is claimed of it, one JSON object on a line. `bound`:
    the plan's own, which may be more than the evidence proves; `plan`: the plan's hash. Raises
    `Refuted` where the step is larger than the checker takes."""
    spec = _certified(program)
    name = PARTS_FORMAT if spec.streams else "stretto-certificate"
    found: dict[str, Any] = {"format": name, "version": 1, **of_program(program)}
    if plan is not None:
        found["plan"] = plan
    if spec.sizes_in:
        found["sizes_in"] = spec.sizes_in
    data = json.loads(json.dumps(found["instance"]))
    if spec.streams:
        parts = PartsBoundCheck(ChainInstance(data))
        found["evidence"] = parts_evidence(parts)
        proven = parts.value(found["evidence"])
    else:
        of = Instance(data)
        found["evidence"] = evidence(spec, of)
        proven = BoundCheck(of, json.loads(json.dumps(found["evidence"]))).value()
    found["claims"] = {
        "makespan": claims.makespan,
        "span": claims.span,
        "peaks": list(claims.activations),
        "bound": proven,
    }
    if bound is not None:
        found["stated"] = {"bound": bound.ticks, "reason": bound.reason}
    return json.dumps(found, separators=(",", ":")) + "\n"


EVIDENCE, MOST_EVIDENCE, WRITING = 8e-4, 5.0, 1e-4
"""Seconds of one core: the evidence of an operation, and of all of them at most, since larger steps
get fewer rounds; and each operation's instance and start. What the slowest of `v_half` from 2 to 16
ranks and 16 to 512 micro-batches takes, about (`benchmarks/certificate_seconds.py`)."""


def seconds_for(problem: Problem) -> float:
    """How many seconds of one core a certificate takes, about: rather more than less."""
    many = len(problem.operations)
    if problem.spec.streams:
        return WRITING * many
    return min(EVIDENCE * many, MOST_EVIDENCE) + WRITING * many


def of_program(program: Program) -> dict[str, Any]:
    """The part of a certificate that does not depend on what is claimed: names and units, what
    is to be done, and when it runs. Raises `Refuted` where something runs beside the
    computations."""
    spec = _certified(program)
    if has_collectives(spec):
        raise Refuted(
            "a certificate does not tell of `reduce gradients` and `unshard weights` yet; without "
            "these statements there is one of the computations"
        )
    rows = [list(_units(row)) for row in time(program).ranks] if not spec.streams else []
    return {
        "schedule_name": spec.name,
        "time_unit": spec.time_unit,
        "size_unit": spec.size_unit,
        "instance": parts_instance(spec) if spec.streams else instance(spec),
        "schedule": parts_schedule(program) if spec.streams else rows,
    }


def _certified(program: Program) -> Spec:
    """What the Program is to do: of forwards alone, nothing is trained."""
    spec = program.spec
    if program.name == "eval":
        lines = tuple(msgspec.structs.replace(line, forward_only=True) for line in spec.pipelines)
        spec = msgspec.structs.replace(spec, pipelines=lines, rules=(), written=())
    return spec


def unproven(found: dict[str, Any]) -> str | None:
    """What the plan says of its bound beyond what the certificate proves, in words."""
    stated, proven = found.get("stated"), found["claims"]["bound"]
    if not stated or stated["bound"] <= proven:
        return None
    more, less = (
        figure(Fraction(ticks, found["time_unit"]), "down") for ticks in (stated["bound"], proven)
    )
    return (
        f"the plan's own lower bound of {more} ({stated['reason']}); "
        f"the certificate confirms {less}"
    )


_STAGE = ("rank", "F", "B", "I", "W", "activation", "kept")
"""What a certificate has of a stage."""


def instance(spec: Spec) -> dict[str, Any]:
    """What is to be done, in ticks and grains, with the keys that `checker.check` describes."""
    return {
        "ranks": spec.ranks,
        "minimize": spec.minimize,
        "split": split_backwards(spec),
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
    """The part of an order that was written. A complete one does not constrain the bound, which
    says what another could gain."""
    if complete(spec):
        return []
    return [[[_op(o) for o in unit.operations] for unit in units] for units in spec.written]


def _op(operation: Operation) -> list[Any]:
    return list(operation[:5])


def _units(row: tuple[Timed, ...]) -> Iterator[list[Any]]:
    """Start and end, in ticks, and operations of a rank's units."""
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
