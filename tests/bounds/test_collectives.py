"""`reduce gradients` and `unshard weights` in the bound and the clock, against all orders of tiny
schedules, timed by a clock of their own that knows neither instructions nor bounds."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import permutations, product
from random import Random

import pytest

from stretto.compiler.bounds.bound import bound
from stretto.compiler.driver import compile_text
from stretto.compiler.plan.plan import Plan
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Spec
from stretto.compiler.program.timeline import time

Op = tuple[str, int, int, int]  # F or B, pipeline, stage, micro-batch
SHAPES = {
    "chain": "ranks 2 microbatches 2 pipeline main { }",
    "loop": "ranks 2 microbatches 1 pipeline main { stages 4 }",
    "alone": "ranks 1 microbatches 2 pipeline main { stages 2 place s -> 0 }",
    "copies": "ranks 2 microbatches 2 pipeline near { microbatches 1 place s -> s } "
    "pipeline far { microbatches 1 replicates near place s -> 1 - s }",
}


def text(shape: str, draw: Random) -> str:
    def several(least: int, most: int) -> str:
        return str([draw.randint(least, most) for _ in range(4)])

    return (
        f"schedule tiny {SHAPES[shape]} let f = {several(1, 3)} let b = {several(1, 4)} "
        f"let e = {several(0, 5)} let u = {several(0, 3)} "
        + " ".join(
            f"cost F {p}[s] = f[s] for s in 0 .. {p}.stages "
            f"cost B {p}[s] = b[s] for s in 0 .. {p}.stages"
            for p in (["near", "far"] if shape == "copies" else ["main"])
        )
        + " reduce gradients cost e[s] for stage s unshard weights cost u[s] for stage s"
        + f" transfer {draw.randint(0, 1)}"
    )


def makespan(spec: Spec, orders: tuple[tuple[Op, ...], ...]) -> int | None:
    """By longest paths, until nothing moves; None where the orders wait in a circle."""
    e = {(p, s): t for p, s, t in spec.reduce_gradients}
    u = {(p, s): t for p, s, t in spec.unshard_weights}
    lag = {(t.source, t.target): t.ticks for t in spec.transfers}
    rank = {op: r for r, row in enumerate(orders) for op in row}
    there: dict[tuple[int, int], int] = {}
    for row in orders:
        now = 0
        for _, p, s, _ in row:
            if (p, s) not in there:
                now += u[p, s]
                there[p, s] = now
    end: dict[Op, int] = {}
    while len(end) < len(rank):
        before = len(end)
        for row in orders:
            for k, op in enumerate(row):
                kind, p, s, m = op
                last = len(spec.pipelines[p].stages) - 1
                needs: list[Op] = [row[k - 1]] if k else []
                if kind == "F":
                    needs += [("F", p, s - 1, m)] if s else []
                else:
                    needs += [("F", p, s, m)] + ([("B", p, s + 1, m)] if s < last else [])
                if op in end or not all(one in end for one in needs):
                    continue
                way = {
                    n: lag.get((rank[n], rank[op]), 0) if rank[n] != rank[op] else 0 for n in needs
                }
                start = max([there[p, s], *(end[n] + way[n] for n in needs)])
                stage = spec.pipelines[p].stages[s]
                end[op] = start + (stage.F if kind == "F" else stage.B)
        if len(end) == before:
            return None
    whole = max(end.values())
    for row in orders:
        now, final = 0, []
        for p, s in {op[1:3] for op in row}:
            copies = [o for o in end if o[2] == s] if len(spec.pipelines) > 1 else row
            final.append((max(end[o] for o in copies if o[2] == s), p, s))
        for done, p, s in sorted(final):
            now = max(now, done) + e[p, s]
        whole = max(whole, now)
    return whole


def all_orders(spec: Spec) -> Iterator[tuple[tuple[Op, ...], ...]]:
    rows: list[list[Op]] = [[] for _ in range(spec.ranks)]
    for p, line in enumerate(spec.pipelines):
        for s, stage in enumerate(line.stages):
            for m in range(line.microbatches):
                rows[stage.rank] += [("F", p, s, m), ("B", p, s, m)]
    sensible = [
        [
            row
            for row in permutations(rank)
            if all(row.index(("F", *op[1:])) < row.index(op) for op in row if op[0] == "B")
        ]
        for rank in rows
    ]
    yield from product(*sensible)


def order_of(plan: Plan) -> tuple[tuple[Op, ...], ...]:
    return tuple(
        tuple(one.operation[:4] for one in row) for row in time(plan.programs["train"]).ranks
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(5))
def test_no_order_is_below_the_bound(shape: str, seed: int) -> None:
    plan = compile_text(text(shape, Random(f"{shape}{seed}")), "tiny.pipe")
    spec = plan.programs["train"].spec
    least = min(
        found for orders in all_orders(spec) if (found := makespan(spec, orders)) is not None
    )
    claimed = plan.claims["train"].makespan
    assert plan.bound.ticks == bound(expand(spec)).ticks <= least <= claimed
    alone = makespan(spec, order_of(plan))
    assert alone is not None and alone <= claimed
    if shape != "copies":  # sums of copies stand at the end of the lists
        assert alone == claimed


def test_the_bound_is_reached_where_all_follows_one_chain() -> None:
    """1F1B on equal stages, with a gathering before its first forward and a reduction after its
    last backward."""
    body = "pipeline main { } reduce gradients cost 5 unshard weights cost 3/2"
    plan = compile_text(f"schedule chain ranks 3 microbatches 5 {body}", "chain.pipe")
    spec = plan.programs["train"].spec
    claims = plan.claims["train"]
    assert Fraction(claims.makespan, spec.time_unit) == 3 * (5 + 2) + 5 + Fraction(3, 2)
    assert plan.bound.ticks == claims.makespan
    assert Fraction(plan.claims["eval"].makespan, spec.time_unit) == 5 + 2 + Fraction(3, 2)
