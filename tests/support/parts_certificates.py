"""Certificates of stages that are cut into parts: of random instances with random orders, and the
truth of an instance by a solver."""

import json
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from random import Random
from typing import Any

from msgspec.structs import replace
from ortools.sat.python import cp_model

from stretto.compiler.certificate.write import certificate
from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.order import Order
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.problem import Problem
from stretto.compiler.problem.spec import (
    NONE,
    CostOverride,
    Feed,
    Limit,
    Operation,
    Part,
    PartFigures,
    Pipeline,
    Rule,
    Spec,
    Stage,
    Transfer,
    Unit,
)
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicate
from tests.support.lane_orders import most_held
from tests.support.parts import parts_spec
from tests.support.parts_orders import order_of, random_sequence
from tests.support.parts_targets import random_parts


def certificate_of(order: Order) -> dict[str, Any]:
    """The certificate of an order of parts."""
    program = communicate(order)
    return dict(json.loads(certificate(program, claims(program), plan="0" * 64)))


def random_certificate(random: Random, operations: int) -> dict[str, Any]:
    """As `_random_certificate`, where the compiler takes the rules."""
    while True:
        with suppress(Rejected):  # rules between ranks that nothing makes wait
            return _random_certificate(random, operations)


def _random_certificate(random: Random, operations: int) -> dict[str, Any]:
    """Of a random instance of at most so many operations, with a random order. Some have rules, a
    part of an order, single costs, the span for an aim; limits are what the order holds, or a
    little more."""
    spec = replace(random_parts(random, operations), limits=())
    if random.random() < 0.3:
        spec = replace(spec, minimize="span")
    problem = expand(spec)
    sequence = random_sequence(problem, random)
    if random.random() < 0.3:
        spec = bent(spec, problem, sequence, random)
        problem = expand(spec)
    order = order_of(problem, sequence)
    if random.random() < 0.8:
        peaks = claims(communicate(order)).activations
        limits = tuple(Limit(n + random.choice([0, 0, 0, 1]), 0) for n in peaks)
        order = order_of(expand(replace(spec, limits=limits)), sequence)
    return certificate_of(order)


def bent(spec: Spec, problem: Problem, sequence: Sequence[int], random: Random) -> Spec:
    """The Spec with rules, single costs or a part of an order, all of which the sequence keeps."""
    operations = [problem.operations[i] for i in sequence]
    what = random.choice(["rules", "exceptions", "written"])
    if what == "rules":
        a, b = sorted(random.sample(range(len(sequence)), 2))
        return replace(spec, rules=(Rule(operations[b], operations[a], 0),))
    if what == "exceptions":
        one = CostOverride(random.choice(operations), random.randint(0, 4))
        return replace(spec, exceptions=(one,))
    some = {o for o in operations if random.random() < 0.4}
    rank = {problem.operations[i]: problem.rank[i] for i in sequence}
    rows = [[o for o in operations if rank[o] == r and o in some] for r in range(spec.ranks)]
    return replace(spec, written=tuple(tuple(Unit((o,), 0) for o in row) for row in rows))


def _operation(o: list[Any]) -> Operation:
    kind, p, s, m, part = o
    return Operation(kind, p, s, m, NONE, part)


def spec_of(instance: dict[str, Any]) -> Spec:
    """The Spec that a certificate's instance describes."""
    lines = []
    for p, line in enumerate(instance["pipelines"]):
        stages = []
        for stage in line["stages"]:
            rows = tuple(PartFigures(*part[1:]) for part in stage["parts"])
            held = stage["activation"], stage["kept"]
            stages.append(Stage(stage["rank"], 0, 0, 0, 0, *held, parts=rows))
        lines.append(
            Pipeline(
                str(p),
                tuple(stages),
                line["microbatches"],
                0,
                0,
                feeds=tuple(Feed(*feed) for feed in line["feeds"]),
                forward_only=line["forward_only"],
            )
        )
    parts = [
        [[Part(str(k), -1, part[0]) for k, part in enumerate(stage["parts"])] for stage in row]
        for row in (line["stages"] for line in instance["pipelines"])
    ]
    limits = tuple(None if n is None else Limit(n, 0) for n in instance["limits"])
    return replace(
        parts_spec(1, 1),
        ranks=instance["ranks"],
        minimize=instance["minimize"],
        split_backward=instance["split"],
        streams=tuple(instance["streams"]),
        pipelines=tuple(lines),
        parts=tuple(tuple(tuple(chain) for chain in row) for row in parts),
        transfers=tuple(Transfer(*one) for one in instance["transfers"]),
        limits=limits if any(limits) else (),
        exceptions=tuple(CostOverride(_operation(o), t) for o, t in instance["exceptions"]),
        rules=tuple(Rule(_operation(a), _operation(b), 0) for a, b in instance["rules"]),
        written=tuple(tuple(Unit((_operation(o),), 0) for o in row) for row in instance["fixed"]),
        order=("",) * instance["ranks"],
    )


def truth(problem: Problem, seconds: float = 5) -> int | None:
    """The least value of what the Spec minimizes, of all start times that keep to edges, streams
    and limits, whether anything waits without need or not; None where the time does not suffice.
    Raises `ValueError` where there are no such times."""
    model, spec = cp_model.CpModel(), problem.spec
    far = sum(problem.duration) + sum(problem.lag) + 1
    start = [model.new_int_var(0, far, f"s{i}") for i in range(len(problem.operations))]
    end = [s + ticks for s, ticks in zip(start, problem.duration, strict=True)]
    lanes: dict[tuple[int, int], list[Any]] = {}
    for i, ticks in enumerate(problem.duration):
        one = model.new_fixed_size_interval_var(start[i], ticks, f"i{i}")
        lanes.setdefault((problem.rank[i], problem.stream[i]), []).append(one)
    for row in lanes.values():
        model.add_no_overlap(row)
    for a, b, lag in zip(problem.tail, problem.head, problem.lag, strict=True):
        model.add(start[b] >= end[a] + lag)
    for rank, limit in enumerate(spec.limits):
        held = []
        own = [h for h in problem.holdings if problem.rank[h.taken_by] == rank]
        for n, (_, taken, freed) in enumerate(own):
            until = model.new_int_var(0, far, f"e{rank}.{n}")
            model.add_max_equality(until, [end[i] for i in freed])
            size = model.new_int_var(0, far, f"d{rank}.{n}")
            held.append(model.new_interval_var(start[taken], size, until, f"h{rank}.{n}"))
        if limit is not None:
            model.add_cumulative(held, [h.grains for h in own], limit.grains)
    value = model.new_int_var(0, far, "value")
    if spec.minimize == "makespan":
        model.add_max_equality(value, [0, *end])
    else:
        for rank in set(problem.rank):
            first = model.new_int_var(0, far, f"f{rank}")
            mine = [i for i, other in enumerate(problem.rank) if other == rank]
            model.add_min_equality(first, [start[i] for i in mine])
            for i in mine:
                model.add(value >= end[i] - first)
    model.minimize(value)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.max_time_in_seconds = seconds
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        raise ValueError("no start times keep to the instance")
    return round(solver.objective_value) if status == cp_model.OPTIMAL else None


def keeps(problem: Problem, data: dict[str, Any]) -> None:
    """Asserts that the certificate's start times keep to the Problem of its instance, and that its
    claims of them are so: by the compiler's edges and holdings, without the checker."""
    index = {o: i for i, o in enumerate(problem.operations)}
    rows = [(s, e, index[_operation(o)]) for row in data["schedule"] for s, e, o in row]
    start = {i: s for s, _, i in rows}
    end = {i: e for _, e, i in rows}
    assert len(rows) == len(start) == len(index)
    assert all(end[i] == start[i] + problem.duration[i] for i in start)
    for a, b, lag in zip(problem.tail, problem.head, problem.lag, strict=True):
        assert start[b] >= end[a] + lag
    lanes: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for s, e, i in rows:
        lanes.setdefault((problem.rank[i], problem.stream[i]), []).append((s, e))
    for lane in lanes.values():
        assert all(b[0] >= a[1] for a, b in pairwise(sorted(lane)))
    claimed = data["claims"]
    assert claimed["makespan"] == max(end.values(), default=0)
    spans = [0]
    for rank, peak in enumerate(claimed["peaks"]):
        own = [i for i in start if problem.rank[i] == rank]
        spans.append(
            max((end[i] for i in own), default=0) - min((start[i] for i in own), default=0)
        )
        held = most_held(problem, [start[i] for i in range(len(start))], rank)
        limit = data["instance"]["limits"][rank]
        assert held <= peak and (limit is None or peak <= limit)
    assert claimed["span"] == max(spans)
