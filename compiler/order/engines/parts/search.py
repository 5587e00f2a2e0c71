"""Problem → Order, where stages are cut into parts and nobody wrote the order: published orders
first, so that nothing found is worse, then list schedules, CP-SAT where a proof is in reach, and
annealing with what is left."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from time import process_time

from stretto.compiler.bounds.bound import bound
from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label, Rejected
from stretto.compiler.order import Order
from stretto.compiler.order.budget import Budget
from stretto.compiler.order.cache import Remembered, again, recall, remember, tell, worked
from stretto.compiler.order.check import check
from stretto.compiler.order.engines.parts import exact
from stretto.compiler.order.engines.parts.anneal import PartsRun, annealed
from stretto.compiler.order.engines.parts.dispatch import dispatched, in_turn, lanes_of
from stretto.compiler.order.engines.parts.instance import (
    Lanes,
    clock,
    order_of_lanes,
)
from stretto.compiler.order.engines.parts.starts import starts
from stretto.compiler.order.engines.parts.state import FoundLanes, PartsSearch, parts_search
from stretto.compiler.order.engines.spending import CHAINS, rounds, side_by_side
from stretto.compiler.order.engines.table import engine
from stretto.compiler.order.kernels.jit import fast
from stretto.compiler.order.loops import loops_for
from stretto.compiler.order.open_search import SearchDone, run_in_turn
from stretto.compiler.problem.problem import Problem
from stretto.compiler.problem.spec import Operation

MOVE = 60
"""Operations that a move is reckoned to replay."""

SAMPLES = 12
"""Choices of durations by which orders are compared under jitter."""


def search_parts(problem: Problem, budget: Budget) -> Order:
    """The best Order that the budget allows. Raises `LookupError` if none was found at all,
    `Rejected` for an engine that does not know parts (`no-order`), and `KeyboardInterrupt` where
    the Budget's `interrupted` does not take it."""
    core = process_time()
    budget = replace(budget, engine=_engine(problem, budget.engine), until=budget.deadline())
    least = bound(problem)
    old = recall(problem, budget)
    searched = again(old, budget)
    coming = loops_for("parts", len(problem.operations), budget) if searched else None
    state = parts_search(problem, budget, least.ticks)
    state.coming = coming
    try:
        if old is not None and sorted(old.sequence) == list(range(state.instance.size)):
            state.submit(lanes_of(state.instance, old.sequence), old.engine)
        if not state.found or searched:
            _run_all(state)
        elif old is not None:
            tell(old, budget)
    except SearchDone:
        pass
    except KeyboardInterrupt:
        state.interrupt()
    if not state.found:
        raise LookupError("no order was found")
    if budget.ended is not None:
        budget.ended()
    best = _robust(state) if problem.spec.jitter[0] else state.best
    seconds = worked(budget, core, old)
    same = not state.interrupted or budget.effort is None  # an effort means the same everywhere
    if same and state.proven <= least.ticks:  # what was proved is not kept, and must not get lost
        flat = [i for row in best.lanes for i in row]
        remember(problem, budget, Remembered(flat, best.engine, seconds))
    return replace(_checked(state, best), bound=least)


def improve_parts(
    problem: Problem, start: Sequence[Sequence[Operation]], budget: Budget
) -> Order | None:
    """The best Order that a short search finds from `start`, the parts of every rank in one
    sequence; None if there is none. Raises `KeyboardInterrupt`."""
    loops_for("parts", len(problem.operations), replace(budget, progress=None), published=False)
    state = parts_search(problem, budget, bound(problem).ticks)
    index = {operation: i for i, operation in enumerate(problem.operations)}
    try:
        given = [index[o] for row in start for o in row if o in index]
        with state.until_the_deadline():
            state.submit(lanes_of(state.instance, given), "start")
            _run(state, [step for step in ENGINES if step.name != "cpsat"])
    except SearchDone:
        pass
    return _checked(state, state.best) if state.found else None


def _engine(problem: Problem, name: str | None) -> str | None:
    """The full name of the only engine asked for. Raises `Rejected`."""
    if name is None:
        return None
    chosen, known = engine(name).name, list(dict.fromkeys(step.name for step in ENGINES))
    if chosen in known:
        return chosen
    spec = problem.spec
    raise Rejected(
        [
            Diagnostic(
                code="no-order",
                message=f"the engine `{chosen}` does not know stages that are cut into parts",
                labels=(Label(spec.spans[spec.pipelines[0].at]),),
                help=f"leave `--engine` out, or choose one of {', '.join(known)}",
            )
        ]
    )


def _run_all(state: PartsSearch) -> None:
    """Run the engines. Raises `SearchDone` when what was found is good enough or time is up."""
    run_in_turn(state, ENGINES[:1], ENGINES[1:], lambda steps: _run(state, steps))


def _run(state: PartsSearch, steps: Iterable["PartsStep"]) -> None:
    """Run the chosen engine and those that it starts from, or all. Raises `SearchDone` when what
    was found is good enough."""
    only = state.budget.engine
    for step in steps:
        if only in (None, step.name) or step.name in ("library", "list"):
            step.run(state, step.share if only is None else 1.0)


def _checked(state: PartsSearch, best: FoundLanes) -> Order:
    """The Order, timed by what shares nothing with the engines."""
    order = order_of_lanes(state.problem, state.instance, best.lanes, best.engine)
    outcome = check(order)
    if (outcome.span if state.span else outcome.makespan) != best.value:
        raise RuntimeError("two ways to time an order disagree")
    return replace(order, proven=state.proven)


# ---------------------------------------------------------------------------- published and lists


def _library(state: PartsSearch, share: float) -> None:
    """Submit every published order that fits."""
    for number, (name, lanes) in enumerate(starts(state.problem)):
        state.submit(lanes, name, number)


def _lists(state: PartsSearch, share: float) -> None:
    """List schedules from every base: what was found so far, and one micro-batch after another."""
    instance, operations = state.instance, state.problem.operations
    turn = [o.microbatch * len(state.problem.spec.pipelines) + o.pipeline for o in operations]
    bases = [in_turn(instance, turn)]
    for one in sorted(state.found.values(), key=lambda one: one.value)[:6]:
        timed = clock(instance, one.lanes)
        if timed is not None:
            bases.append(timed.sequence)
    state.submit(lanes_of(instance, bases[0]), "list")
    for base in bases:
        for priority in _priorities(state, base):
            state.submit(dispatched(instance, base, priority), "list", len(state.found))


def _priorities(state: PartsSearch, base: list[int]) -> Iterator[list[int]]:
    """Rules for what goes first: as in the base; the longest way to the end; backwards, forwards or
    weight gradients before others, each as in the base."""
    instance, operations = state.instance, state.problem.operations
    place = [0] * instance.size
    for k, i in enumerate(base):
        place[i] = k
    yield place
    tail = [0] * instance.size
    for i in reversed(base):
        rest = [tail[j] + lag for j, lag in instance.after[i]]
        tail[i] = instance.ticks[i] + max(rest, default=0)
    yield [-ticks for ticks in tail]
    for kinds in ("IBFW", "FIBW", "IBWF"):
        yield [kinds.index(o.kind) * instance.size + place[i] for i, o in enumerate(operations)]


# ---------------------------------------------------------------------------- annealing


def _anneal(state: PartsSearch, share: float) -> None:
    """Runs of annealing side by side, from the best lanes and, now and then, from others; of a
    placement that is its own mirror image mostly of the folded one."""
    if state.budget.effort == 0 or not state.found:
        return
    until = state.left() * (1 - share)
    mean = max(1.0, sum(state.instance.ticks) / max(1, sum(t > 0 for t in state.instance.ticks)))
    each = _seconds_of_a_move(state)
    most = _moves(state, until, each)
    for n in rounds(state, max(until, 0)):
        moves, turn = most, n * CHAINS
        if state.budget.effort is None:
            moves = max(LEAST, min(most, int((state.left() - until) / each)))
        began = state.budget.clock()
        jobs = [_job(state, k, mean, moves) for k in range(turn, turn + CHAINS)]
        found = side_by_side(state, lambda k: jobs[k](), range(CHAINS))  # noqa: B023
        each = max(1e-8, (state.budget.clock() - began) / moves)
        state.spent += CHAINS * moves * MOVE
        with state.together("anneal"):
            for k, lanes in enumerate(found, turn):
                state.submit(lanes, "anneal", k % 8)


LEAST = 50
"""Moves of a run at least."""

HEATS = (0.5, 0.35, 0.25, 0.7, 0.15, 0.35, 0.5, 0.2)
"""How hot runs begin, in mean durations of a part."""


def _job(state: PartsSearch, k: int, mean: float, moves: int) -> Callable[[], Lanes]:
    """Run number k."""
    known = sorted(state.found.values(), key=lambda one: one.value)
    start = known[0] if k % 4 < 3 else known[min(len(known) - 1, 1 + k // 4 % 4)]
    heat = HEATS[k // CHAINS % len(HEATS)] * mean
    run = PartsRun(moves, heat, 0.06 * mean, 80, state.enough, state.budget.seed * 1009 + k)
    run = replace(run, stop=state.stop)
    mirror, halved = state.mirror, state.halved
    if mirror is not None and halved is not None and k % 8 < 6:
        folded = mirror.fold(start.lanes)
        timed = clock(mirror.half, folded)
        if timed is not None and timed.fits:
            return lambda: mirror.unfold(annealed(mirror.half, halved, folded, run))
    return lambda: annealed(state.instance, state.arrays, start.lanes, run)


def _seconds_of_a_move(state: PartsSearch) -> float:
    """Seconds that a move takes, as measured where seconds count."""
    if state.budget.effort is not None:
        return 0.0
    few = 2000 if fast() else LEAST
    began = state.budget.clock()
    annealed(state.instance, state.arrays, state.best.lanes, PartsRun(few, 1.0, 1.0))
    return max(1e-8, (state.budget.clock() - began) / few)


def _moves(state: PartsSearch, until: float, each: float) -> int:
    """How many moves a run makes at most, if one takes so many seconds."""
    if state.budget.effort is not None:
        return max(2000, min(2_000_000, int(state.left() * 1e6 / MOVE / CHAINS / 8)))
    return max(LEAST, min(4_000_000, int((state.left() - until) / 8 / each)))


def _exact(state: PartsSearch, share: float) -> None:
    """CP-SAT on all of it."""
    if state.found and state.budget.effort != 0:
        exact.run(state, share)


def _robust(state: PartsSearch) -> FoundLanes:
    """Of the lanes found those whose mean value is least when every duration varies."""
    numerator, denominator = state.problem.spec.jitter
    seed = (state.budget.seed * 6151 + 77) % 2147483646 + 1
    samples = []
    for _ in range(SAMPLES):
        ticks = []
        for own in state.instance.ticks:
            seed = seed * 48271 % 2147483647
            part = 2 * (seed % 10_001) - 10_000
            ticks.append(own * (10_000 * denominator + numerator * part) // denominator)
        samples.append(replace(state.instance, ticks=ticks, holdings=[]))

    def mean(one: FoundLanes) -> int:
        timed = [clock(sample, one.lanes) for sample in samples]
        return sum(t.span if state.span else t.makespan for t in timed if t is not None)

    return min(state.found.values(), key=mean)


@dataclass(frozen=True, slots=True)
class PartsStep:
    """Run an engine, by its name in plans, with a share of what is left then."""

    name: str
    run: Callable[[PartsSearch, float], None]
    share: float = 1.0


ENGINES = (
    PartsStep("library", _library),
    PartsStep("list", _lists),
    PartsStep("anneal", _anneal, 0.1),
    PartsStep("cpsat", _exact, 0.3),
    PartsStep("anneal", _anneal),
)
"""The engines in the order that pays."""
