"""Annealing as an engine: the best words of all engines, round by round; and what `under jitter`
adds to it."""

from collections.abc import Sequence
from time import monotonic
from typing import Any

from stretto.compiler.order.budget import Budget
from stretto.compiler.order.engines import local_search as annealing
from stretto.compiler.order.engines import priorities as offsetting
from stretto.compiler.order.engines.run import CHAINS, side_by_side
from stretto.compiler.order.kernels import evaluator
from stretto.compiler.order.kernels.jit import ints
from stretto.compiler.order.search_state import WORK, Found, Hunt, jittered

STARTS = 6  # that are annealed, the best ones
SMALL = 250  # operations: a search that can afford to forget its start
GENTLE = (0.05, 0.1, 0.05, 0.2, 0.07)  # temperatures, in mean durations, round by round
STRONG = (0.5, 0.35, 0.5, 0.2, 0.35)


def polish(hunt: Hunt, share: float) -> None:
    """Anneal: every start for a while, the better half of them for longer, and so on; then the
    best two as long as that helps, and when it does not all again. Gently: what a good start has
    must not be lost at once."""
    began = hunt.left()
    end = began * (1 - share)
    starts = first = _starts(hunt)
    rate = _rate(hunt, starts[0])
    turn = 0
    while hunt.left() > end and not hunt.over():
        room = hunt.left() - end
        moves = max(500, int(room / 4 * rate * CHAINS / max(CHAINS, len(starts))))
        results = _anneal_all(hunt, starts, moves, turn)
        pool = sorted([*results, *starts], key=lambda one: one.value)
        few = len(starts) <= CHAINS and pool[0].value == min(one.value for one in starts)
        starts = first if few else _distinct(pool)[: max(CHAINS, len(starts) // 2)]
        turn += 1


NEAR = 1.1  # of the best: what is worse is hardly ever annealed to the best


def _starts(hunt: Hunt) -> list[Found]:
    """What is near the best, of every engine in turn: what one engine finds may be better now, and
    lead less far."""
    near = sorted(hunt.found.values(), key=lambda one: one.value)
    near = [one for one in near if one.value <= near[0].value * NEAR]
    turns: list[tuple[int, Found]] = []
    seen: dict[str, int] = {}
    for one in near:
        seen[one.engine] = seen.get(one.engine, 0) + 1
        turns.append((seen[one.engine], one))
    return [one for _, one in sorted(turns, key=lambda turn: turn[0])][:STARTS]


def _heat(hunt: Hunt, start: Found, turn: int) -> float:
    """The temperature to begin with. Small problems may forget their start, and a list schedule
    of several stages under a limit had better do so."""
    if hunt.model.size <= SMALL:
        return STRONG[turn % len(STRONG)]
    if start.engine == "list" and turn == 0 and any(many > 1 for many in hunt.t.many):
        return STRONG[0]
    return GENTLE[turn % len(GENTLE)]


SAMPLES = 12


def robust(hunt: Hunt, budget: Budget) -> Found:
    """The order with the least mean over samples of the durations, starting from the best ones
    for the durations as they are, in what is left of the whole budget."""
    t, samples = jittered(hunt.model, hunt.t, SAMPLES, budget.seed)
    starts = sorted(hunt.found.values(), key=lambda one: one.value)[:STARTS]
    judge = evaluator.prepare(t, samples, budget.seed)
    means = [evaluator.evaluate(judge, ints(one.word), hunt.span) for one in starts]
    best, word = min(zip(means, [one.word for one in starts], strict=True), key=lambda one: one[0])
    mean = offsetting.mean_ticks(hunt.model) * max(samples.ticks[0]) / max(hunt.model.duration)
    deadline, spent, turn, rate = hunt.deadline + budget.seconds / 2, 0, 0, 0.0
    try:
        while True:
            began = monotonic()
            if budget.effort is None:
                left = deadline - began
                moves = int(max(100, min(rate * left / 3, 50_000))) if turn else 200
                if left <= 0:
                    break
            else:
                moves = max(100, budget.effort * WORK // (SAMPLES * hunt.model.size))
                if turn == 4:
                    break
            state = evaluator.prepare(t, samples, budget.seed + turn)
            trial, better = ints(word), ints(word)
            hot = GENTLE[turn % len(GENTLE)] * mean
            value = annealing.run(
                state, trial, better, moves, hot, hot / 5, 0.1, hunt.span, _overlaps(hunt), 0
            )
            spent += moves
            rate = moves / max(1e-4, monotonic() - began)
            turn += 1
            if 0 <= value < best:
                best, word = value, better
    except KeyboardInterrupt:
        hunt.interrupt()
    value = evaluator.evaluate(hunt.state, ints(word), hunt.span)
    return Found(value, "anneal", word)


def _overlaps(hunt: Hunt) -> bool:
    """Whether pairs may be merged and split."""
    some = bool(hunt.model.pairs) or any(ticks >= 0 for ticks in hunt.model.joint)
    return some and not any(x >= 0 for x in hunt.model.partner)


def _rate(hunt: Hunt, start: Found) -> float:
    """Moves that one chain makes per unit of what is left: per second, or per unit of effort."""
    if hunt.budget.effort is not None:
        return WORK / max(1, hunt.model.size)
    began = monotonic()
    moves = max(50, min(2000, 400_000 // hunt.model.size))
    _anneal(hunt, start, moves, 0.03, 0, hunt.state)
    return moves / max(1e-4, monotonic() - began)


def _distinct(pool: Sequence[Found]) -> list[Found]:
    found: list[Found] = []
    for one in pool:
        if all(one.value != other.value or list(one.word) != list(other.word) for other in found):
            found.append(one)
    return found


def _anneal_all(hunt: Hunt, starts: Sequence[Found], moves: int, turn: int) -> list[Found]:
    """Anneal every start; two at a time where loops are compiled."""
    jobs = list(starts)
    while len(jobs) < CHAINS:
        jobs.append(jobs[0])
    states = [
        evaluator.prepare(hunt.t, hunt.samples(), hunt.budget.seed + 1000 * turn + k + 1)
        for k in range(len(jobs))
    ]

    def work(k: int) -> Found | None:
        return _anneal(hunt, jobs[k], moves, _heat(hunt, jobs[k], turn), turn + k, states[k])

    results = side_by_side(work, range(len(jobs)))
    hunt.spent += moves * hunt.model.size * len(jobs) // CHAINS
    good = [one for one in results if one is not None]
    for one in good:
        hunt.offer(one.word, "anneal")
    return good


def _anneal(
    hunt: Hunt, start: Found, moves: int, hot: float, turn: int, state: Any
) -> Found | None:
    mean = offsetting.mean_ticks(hunt.model)
    word, best = ints(start.word), ints(start.word)
    weight = (0.1, 0.5, 0.3, 0.05)[turn % 4]
    value = annealing.run(
        state,
        word,
        best,
        moves,
        hot * mean,
        0.02 * mean,
        weight,
        hunt.span,
        _overlaps(hunt),
        hunt.enough,
    )
    return None if value < 0 else Found(value, "anneal", best)
