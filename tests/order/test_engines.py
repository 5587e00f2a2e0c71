"""Orders that engines find, against what does not share their code: exhaustive search on tiny
problems, CP-SAT on small ones, published schedules, and the proof of the Program that comes out."""

from fractions import Fraction
from itertools import product
from pathlib import Path
from random import Random

import msgspec
import pytest

from stretto.compiler.bounds.bound import bound
from stretto.compiler.bounds.feasible import memory_needs
from stretto.compiler.bounds.relaxation import relax
from stretto.compiler.order import Order, RankOrder
from stretto.compiler.order.arrange import arrange
from stretto.compiler.order.budget import Budget
from stretto.compiler.order.check import check
from stretto.compiler.order.engines.priority_rules import ListScheduler, rules
from stretto.compiler.order.engines.published import published_schedules
from stretto.compiler.order.engines.table import BY_NAME, ENGINES
from stretto.compiler.order.kernels import jit
from stretto.compiler.order.kernels.arrays import arrays_of
from stretto.compiler.order.kernels.instance import instance_of
from stretto.compiler.order.kernels.sequences import order_of, pack
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Feed, Limit, Pair, Spec
from stretto.compiler.program.communicate import communicate
from stretto.compiler.proof.prove import prove
from tests.support.specs import both_ways, linear, model, pipeline, vee


def limited(spec: Spec, *grains: int) -> Spec:
    """The Spec with these limits, one for all ranks or one for each."""
    each = grains if len(grains) == spec.ranks else grains * spec.ranks
    return msgspec.structs.replace(spec, limits=tuple(Limit(g, 0) for g in each))


def tiny(random: Random) -> Spec:
    """A Spec of at most twelve operations, with whatever limits allow."""
    costs = random.choice([(1, 1, 1), (2, 3, 1), (1, 2, 2)])
    transfer = random.choice([0, 0, 1])
    spec = random.choice([linear, vee])(2, random.choice([1, 2]), costs, transfer=transfer)
    if sum(line.microbatches * len(line.stages) for line in spec.pipelines) > 4:
        spec = linear(2, 2, costs, transfer=transfer)
    most = max(
        sum(s.activation for s in spec.pipelines[0].stages if s.rank == r)
        for r in range(spec.ranks)
    )
    return limited(spec, most + random.choice([0, 1, 2, 8]))


def best_of_all(spec: Spec) -> int:
    """The least makespan of any order at all, micro-batches in any sequence: depth first over all
    ways to let some rank run next what it can, each started as early as possible."""
    problem = expand(spec)
    n = len(problem.operations)
    before: list[list[tuple[int, int]]] = [[] for _ in range(n)]
    for a, b, lag in zip(problem.tail, problem.head, problem.lag, strict=True):
        before[b].append((a, lag))
    limits = [10**9 if limit is None else limit.grains for limit in spec.limits]
    best = [10**9]
    seen: dict[tuple[object, ...], int] = {}

    def go(end: tuple[int, ...], free: tuple[int, ...], held: tuple[int, ...]) -> None:
        if max(free) >= best[0]:
            return
        if min(end) >= 0:
            best[0] = max(free)
            return
        state = (end, free)
        if state in seen:
            return
        seen[state] = 0
        for i in range(n):
            if end[i] >= 0 or any(end[a] < 0 for a, _ in before[i]):
                continue
            r = problem.rank[i]
            if held[r] + problem.alloc[i] > limits[r]:
                continue
            start = max([free[r], *(end[a] + lag for a, lag in before[i])])
            stop = start + problem.duration[i]
            go(
                (*end[:i], stop, *end[i + 1 :]),
                (*free[:r], stop, *free[r + 1 :]),
                (*held[:r], held[r] + problem.alloc[i] - problem.free[i], *held[r + 1 :]),
            )

    go((-1,) * n, (0,) * spec.ranks, (0,) * spec.ranks)
    return best[0]


@pytest.mark.parametrize("seed", range(12))
def test_tiny_problems_are_solved(seed: int) -> None:
    spec = tiny(Random(seed))
    problem = expand(spec)
    order = arrange(problem, Budget(effort=1, seed=seed))
    least = best_of_all(spec)
    assert check(order).makespan == least
    assert bound(problem).ticks <= least
    assert order.proven <= least


def random_spec(random: Random) -> Spec:
    """A Spec of some dozen operations of any shape."""
    costs = (random.randint(1, 4), random.randint(1, 4), random.randint(1, 4))
    many, transfer = random.randint(2, 4), random.randint(0, 2)
    match random.randrange(5):
        case 0:
            spec = linear(3, many, costs, transfer=transfer)
        case 1:
            spec = vee(2, many, costs, transfer=transfer)
        case 2:
            spec = both_ways(2, 2 * many, costs, transfer=transfer)
        case 3:
            lines = [
                pipeline("a", [0, 1], many, costs),
                pipeline("b", [1, 0], 3, (2, 1, 1)),
            ]
            lines[1] = msgspec.structs.replace(lines[1], model="another")
            spec = model(2, *lines, transfer=transfer)
        case _:
            spec = model(3, pipeline("a", [0, 1, 2], many, costs, forward_only=True))
    spec = msgspec.structs.replace(spec, split_backward=random.random() < 0.7)
    if random.random() < 0.3:
        spec = msgspec.structs.replace(spec, minimize="span")
    least = max(
        sum(s.activation for s in line.stages if s.rank == r)
        for line in spec.pipelines
        for r in range(spec.ranks)
    )
    return limited(spec, least + random.randint(0, 6))


@pytest.mark.parametrize("seed", range(25))
def test_every_order_found_is_proved(seed: int) -> None:
    """The Program of the order holds under the proof, and nothing is below the bound."""
    spec = random_spec(Random(seed))
    problem = expand(spec)
    order = arrange(problem, Budget(effort=1, seed=seed))
    outcome = check(order)
    value = outcome.span if spec.minimize == "span" else outcome.makespan
    assert value >= bound(problem).ticks
    assert prove(communicate(order)).claims.makespan == outcome.makespan


@pytest.mark.parametrize("seed", range(8))
def test_found_orders_are_no_worse_than_cp_sat(seed: int) -> None:
    """CP-SAT alone, given enough work, against the engines that do without it."""
    pytest.importorskip("ortools")
    spec = limited(vee(2, 4, (2, 3, 1), transfer=seed % 3), 4 + seed)
    problem = expand(spec)
    fast = [
        check(arrange(problem, Budget(effort=20, engine=engine, seed=1))).makespan
        for engine in ("anneal", "cpsat")
    ]
    assert fast[0] <= fast[1]


def round_and_round() -> Spec:
    """Three stages on each of two ranks."""
    return model(2, pipeline("main", [0, 1, 0, 1, 0, 1], 6))


def fed() -> Spec:
    """A small pipeline that feeds a larger one, on the rank where that has its second stage."""
    spec = model(3, pipeline("main", [0, 1, 2], 5, (6, 3, 3)), pipeline("side", [1], 5, (2, 6, 2)))
    main, side = spec.pipelines
    stages = tuple(
        msgspec.structs.replace(s, activation=a, kept=a)
        for s, a in zip(main.stages, (2, 4, 3), strict=True)
    )
    main = msgspec.structs.replace(main, stages=stages)
    (stage,) = side.stages
    stage = msgspec.structs.replace(stage, activation=3, kept=3)
    side = msgspec.structs.replace(side, stages=(stage,), feeds=(Feed(0, 0),), model="side")
    return msgspec.structs.replace(spec, pipelines=(main, side))


@pytest.mark.parametrize(
    "spec",
    [linear(4, 8), vee(4, 8), both_ways(4, 16), round_and_round(), fed()],
    ids=["linear", "vee", "both ways", "round and round", "fed"],
)
def test_no_list_rule_gets_stuck_that_reserves(spec: Spec) -> None:
    """At any limit that can be met: the largest sum of one pipeline's stages on a rank."""
    least = max(need.grains for need in memory_needs(relax(spec)))
    for grains in range(least, least + 9):
        made = instance_of(expand(limited(spec, grains)))
        maker = ListScheduler(arrays_of(made))
        reserving = [r for r in rules(made) if r.reserve and r.in_flight_cap == made.limit]
        assert reserving
        assert all(maker.run(rule) is not None for rule in reserving)


@pytest.mark.parametrize("limit", [False, True])
@pytest.mark.parametrize("round", [False, True])
def test_a_list_looks_only_at_what_may_start(limit: bool, round: bool) -> None:
    """Four times the stages on two ranks take four times the steps, not sixteen or sixty-four, for
    what waits for data is not looked at."""

    def steps(many: int) -> int:
        place = [s % 2 if round else s * 2 // many for s in range(many)]
        spec = model(2, pipeline("main", place, 2))
        made = instance_of(expand(limited(spec, 8 * many) if limit else spec))
        maker = ListScheduler(arrays_of(made))
        assert maker.run(next(rules(made))) is not None
        return maker.steps

    assert steps(256) < 6 * steps(64)


def test_lists_end_after_so_many_steps() -> None:
    made = instance_of(expand(linear(4, 8)))
    whole = ListScheduler(arrays_of(made))
    assert whole.run(next(rules(made))) is not None
    for most in (0, whole.steps // 2, whole.steps):
        maker = ListScheduler(arrays_of(made), steps=most)
        assert (maker.run(next(rules(made))) is not None) == (most == whole.steps)


@pytest.mark.parametrize("grains", [4, 5, 8, 16, 40])
def test_never_worse_than_a_known_schedule(grains: int) -> None:
    """Not even where nothing is searched; and memory spent better never hurts."""
    for spec in (linear(4, 8, (2, 3, 1), transfer=1), vee(4, 8, (2, 3, 1)), both_ways(4, 16)):
        problem = expand(limited(spec, grains))
        made = instance_of(problem)
        t = arrays_of(made)
        legal = []
        for name, words in published_schedules(made):
            word = pack(t, words)
            assert word is not None
            order = order_of(made, t, word, name)
            try:
                legal.append(check(order).makespan)
            except ValueError:
                continue  # over the limit
        found = check(arrange(problem, Budget(effort=0))).makespan
        assert found <= min(legal, default=found)


def test_an_unmet_limit_is_noticed() -> None:
    """The check itself: it refuses what breaks a limit, runs twice, or waits for ever."""
    spec = linear(2, 2)
    order = arrange(expand(spec), Budget(effort=0))
    check(order)
    lanes = list(order.lanes)
    for broken in (
        Order(expand(limited(spec, 1)), order.lanes, ""),
        Order(order.problem, (lanes[0], lanes[1]._replace(units=lanes[1].units[:-1])), ""),
        Order(order.problem, (RankOrder(0, 0, lanes[0].units[::-1]), lanes[1]), ""),
    ):
        with pytest.raises(ValueError):
            check(broken)


def test_the_same_seed_and_effort_give_the_same_order() -> None:
    problem = expand(limited(vee(3, 6, (2, 3, 1), transfer=1), 8))
    budget = Budget(effort=1, seed=7)
    assert arrange(problem, budget).lanes == arrange(problem, budget).lanes


def test_pairs_are_made_where_they_pay() -> None:
    """Overlapped units at less than the sum: DualPipe's placement, against its written order."""
    spec = both_ways(4, 16, (1, 1, 1))
    here: list[list[tuple[int, int]]] = [[] for _ in range(4)]
    for p, line in enumerate(spec.pipelines):
        for s, stage in enumerate(line.stages):
            here[stage.rank].append((p, s))
    pairs = tuple(Pair(r, f, "B", b, 2) for r in range(4) for f, b in product(here[r], here[r]))
    grains = 5 * spec.pipelines[0].stages[0].activation
    spec = msgspec.structs.replace(spec, overlap=("B",), pairs=pairs, split_backward=True)
    spec = limited(spec, grains)
    order = arrange(expand(spec), Budget(effort=2))
    assert any(len(unit) == 2 for lane in order.lanes for unit in lane.units)
    dualpipe = Fraction(3 * 5 + 11 * 2 + (2 - 1) * 1)  # T of the traced class at F = I = W = 1
    assert check(order).makespan <= dualpipe
    prove(communicate(order))


def test_an_engine_is_asked_for_by_any_of_its_words() -> None:
    """Names and aliases are distinct, and every module of the table has what it is to have."""
    words = [word for one in ENGINES for word in (one.name, *one.aliases)]
    assert len(set(words)) == len(words) == len(BY_NAME)
    problem = expand(limited(linear(3, 4), 8))
    found = [arrange(problem, Budget(effort=1, engine=e)) for e in ("list", "priority-rules")]
    assert found[0].lanes == found[1].lanes


def test_the_compiled_loops_are_kept_by_the_text_of_all_of_them() -> None:
    """Every module that defines a compiled function lies in a folder that the key is made of."""
    order = Path(str(jit.__file__)).parent.parent
    homes = (order / "kernels", order / "engines")
    for path in order.rglob("*.py"):
        if "@compiled" in path.read_text("utf-8") or "@inlined" in path.read_text("utf-8"):
            assert any(home in path.parents for home in homes), path
