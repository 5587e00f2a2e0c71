"""Local search as an engine: annealing the best sequences of all engines, round by round; and what
`under jitter` adds to it."""

from collections.abc import Sequence

from stretto.compiler.order.budget import Budget
from stretto.compiler.order.engines.local_search import anneal
from stretto.compiler.order.engines.spending import CHAINS, rounds, side_by_side
from stretto.compiler.order.kernels.annealing import Cooling, Goal
from stretto.compiler.order.kernels.evaluator import Evaluator, evaluate, evaluator_of
from stretto.compiler.order.kernels.jit import ints
from stretto.compiler.order.open_search import WORK
from stretto.compiler.order.search_state import Incumbent, SearchState, jittered

NAME = "anneal"
STARTS = 6  # that are annealed, the best ones
SMALL = 250  # operations: a search that can afford to forget its start
GENTLE = (0.05, 0.1, 0.05, 0.2, 0.07)  # temperatures, in mean durations, round by round
STRONG = (0.5, 0.35, 0.5, 0.2, 0.35)
WEIGHTS = (0.1, 0.5, 0.3, 0.05)  # of the mean end
NEAR = 1.1  # of the best: what is worse is hardly ever annealed to the best
SAMPLES = 12  # of the durations, under jitter


def run(state: SearchState, share: float) -> None:
    """Anneal: every start for a while, the better half of them for longer, and so on; then the
    best two as long as that helps, and when it does not all again. Gently: what a good start has
    must not be lost at once."""
    if not state.incumbents:
        return
    until = state.left() * (1 - share)
    starts = first = _starts(state)
    rate = _rate(state, starts[0])
    for turn in rounds(state, until):
        room = state.left() - until
        moves = max(500, int(room / 4 * rate * CHAINS / max(CHAINS, len(starts))))
        results = _anneal_all(state, starts, moves, turn)
        pool = sorted([*results, *starts], key=lambda one: one.value)
        few = len(starts) <= CHAINS and pool[0].value == min(one.value for one in starts)
        starts = first if few else _distinct(pool)[: max(CHAINS, len(starts) // 2)]


def robust(state: SearchState, budget: Budget, deadline: float) -> Incumbent:
    """The order with the least mean over samples of the durations, starting from the best ones
    for the durations as they are, until the `deadline`, a second of the budget's clock."""
    instance = state.instance
    t, samples = jittered(instance, state.t, SAMPLES, budget.seed)
    starts = sorted(state.incumbents.values(), key=lambda one: one.value)[:STARTS]
    judge = evaluator_of(t, samples, budget.seed)
    values = [evaluate(judge, ints(one.sequence), state.span) for one in starts]
    best = min(values)
    sequence = starts[values.index(best)].sequence
    mean = state.mean_ticks() * max(samples.ticks[0]) / max(instance.duration)
    turn, rate = 0, 0.0
    try:
        while True:
            began = budget.clock()
            if budget.effort is None:
                left = deadline - began
                moves = int(max(100, min(rate * left / 3, 50_000))) if turn else 200
                if left <= 0:
                    break
            else:
                moves = max(100, budget.effort * WORK // (SAMPLES * instance.size))
                if turn == 4:
                    break
            made = evaluator_of(t, samples, budget.seed + turn)
            trial, better = ints(sequence), ints(sequence)
            hot = GENTLE[turn % len(GENTLE)] * mean
            goal = Goal(state.span, 0.1, 0)
            value = anneal(
                made, trial, better, Cooling(moves, hot, hot / 5), goal, _overlaps(state)
            )
            rate = moves / max(1e-4, budget.clock() - began)
            turn += 1
            if 0 <= value < best and state.exact(better, value) >= 0:
                best, sequence = value, better
    except KeyboardInterrupt:
        state.interrupt()
    value = evaluate(state.evaluator, ints(sequence), state.span)
    return Incumbent(state.exact(ints(sequence), value), NAME, sequence)


def _starts(state: SearchState) -> list[Incumbent]:
    """Starts within NEAR of the best, round-robin over engines: the best start need not lie in the
    best basin."""
    near = sorted(state.incumbents.values(), key=lambda one: one.value)
    near = [one for one in near if one.value <= near[0].value * NEAR]
    turns: list[tuple[int, Incumbent]] = []
    seen: dict[str, int] = {}
    for one in near:
        seen[one.engine] = seen.get(one.engine, 0) + 1
        turns.append((seen[one.engine], one))
    return [one for _, one in sorted(turns, key=lambda turn: turn[0])][:STARTS]


def _heat(state: SearchState, start: Incumbent, turn: int) -> float:
    """The temperature to begin with. Small problems may forget their start, and a list schedule
    of several stages under a limit had better do so."""
    if state.instance.size <= SMALL:
        return STRONG[turn % len(STRONG)]
    if start.engine == "list" and turn == 0 and any(many > 1 for many in state.t.stages_on):
        return STRONG[0]
    return GENTLE[turn % len(GENTLE)]


def _overlaps(state: SearchState) -> bool:
    """Whether pairs may be merged and split."""
    instance = state.instance
    some = bool(instance.pairs) or any(ticks >= 0 for ticks in instance.full_backward)
    return some and not any(op >= 0 for op in instance.partner)


def _rate(state: SearchState, start: Incumbent) -> float:
    """Moves that one chain makes per unit of what is left: per second, or per unit of effort."""
    if state.budget.effort is not None:
        return WORK / max(1, state.instance.size)
    began = state.budget.clock()
    moves = max(50, min(2000, 400_000 // state.instance.size))
    _anneal(state, start, Cooling(moves, 0.03, 0.02), WEIGHTS[0], state.evaluator)
    return moves / max(1e-4, state.budget.clock() - began)


def _distinct(pool: Sequence[Incumbent]) -> list[Incumbent]:
    """The pool without those that are in it twice."""
    found: list[Incumbent] = []
    for one in pool:
        if all(
            one.value != other.value or list(one.sequence) != list(other.sequence)
            for other in found
        ):
            found.append(one)
    return found


def _anneal_all(
    state: SearchState, starts: Sequence[Incumbent], moves: int, turn: int
) -> list[Incumbent]:
    """Anneal every start; two at a time where loops are compiled."""
    jobs = list(starts)
    while len(jobs) < CHAINS:
        jobs.append(jobs[0])
    made = [
        evaluator_of(state.t, state.samples(), state.budget.seed + 1000 * turn + k + 1, state.stop)
        for k in range(len(jobs))
    ]

    def work(k: int) -> Incumbent | None:
        cooling = Cooling(moves, _heat(state, jobs[k], turn), 0.02)
        return _anneal(state, jobs[k], cooling, WEIGHTS[(turn + k) % len(WEIGHTS)], made[k])

    results = side_by_side(state, work, range(len(jobs)))
    state.spent += moves * state.instance.size * len(jobs) // CHAINS
    good = [one for one in results if one is not None and state.exact(one.sequence, one.value) >= 0]
    with state.together(NAME):
        for one in good:
            state.submit(one.sequence, NAME)
    return good


def _anneal(
    state: SearchState, start: Incumbent, cooling: Cooling, weight: float, s: Evaluator
) -> Incumbent | None:
    """What one run finds; `cooling` in mean durations."""
    mean = state.mean_ticks()
    sequence, best = ints(start.sequence), ints(start.sequence)
    cooling = Cooling(cooling.moves, cooling.hot * mean, cooling.cold * mean)
    goal = Goal(state.span, weight, state.enough)
    value = anneal(s, sequence, best, cooling, goal, _overlaps(state))
    return None if value < 0 else Incumbent(value, NAME, best)
