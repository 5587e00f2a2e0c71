"""The engines, each a function that looks for better words in a Hunt, within a share of what is
left to spend."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import islice
from time import monotonic
from typing import Any

from stretto.compiler.order import anneal as annealing
from stretto.compiler.order import offsets as offsetting
from stretto.compiler.order.budget import Budget, Progress
from stretto.compiler.order.hunt import WORK, Found, Hunt, jittered
from stretto.compiler.order.jit import fast, ints, kept
from stretto.compiler.order.known import known
from stretto.compiler.order.lists import Lists, rules
from stretto.compiler.order.words import pack

STARTS = 8  # that are annealed, the best ones
CHAINS = 2  # annealings side by side, whatever the machine has: a seed means the same everywhere
FEW_RULES = 32  # for problems so large that a list takes long; fewer where loops are not compiled
LARGE = 100_000  # operations


def warm(hunt: Hunt) -> None:
    """Have the loops compiled before the clock starts: the first time on a machine it takes a
    while, and must not eat what was meant for the search."""
    if not fast() or hunt.budget.effort == 0:
        return
    began = monotonic()
    if hunt.budget.progress is not None and not kept():
        words = "compiling the loops of the search, once on this machine"
        hunt.budget.progress(Progress(words, 0, hunt.bound, hunt.budget.seconds))
    word = ints([-1] * hunt.model.size)
    Lists(hunt.model, hunt.t).run(next(rules(hunt.model)))
    annealing.run(hunt.state, word, word.copy(), 0, 1.0, 1.0, 0.1, hunt.span, False, 0)
    search = offsetting.prepare(hunt.model, hunt.t, 0)
    offsetting.run(search, 0, 1.0, 1.0, 0.1, 0, hunt.span, False, 0)
    hunt.deadline += monotonic() - began


def library(hunt: Hunt) -> None:
    """The schedules that people have published."""
    for name, words in known(hunt.model):
        word = pack(hunt.t, words)
        if word is not None:
            hunt.offer(word, name)


def lists(hunt: Hunt) -> None:
    """List schedules by many rules; fewer where each takes long."""
    maker = Lists(hunt.model, hunt.t)
    many = None
    if hunt.model.size > LARGE // 10 and not fast():
        many = FEW_RULES // 3
    elif hunt.model.size > LARGE:
        many = FEW_RULES
    began = monotonic()
    for rule in islice(rules(hunt.model), many):
        word = maker.run(rule)
        if word is not None:
            hunt.offer(word, "list")
        # A search limited by time must leave some for what finds more.
        if (
            hunt.budget.effort is None
            and hunt.found
            and monotonic() - began > hunt.budget.seconds / 4
        ):
            break


# How long to wait for something better (64ths of what would be done instead), how hot to begin
# (mean durations), how much the mean end counts: what won on one problem or another.
OFFSETS: tuple[tuple[int, float, float], ...] = (
    (32, 3.0, 0.1),
    (16, 6.0, 0.5),
    (0, 1.0, 0.1),
    (32, 1.0, 0.1),
    (64, 3.0, 0.1),
    (16, 3.0, 0.1),
    (24, 3.0, 0.3),
    (0, 0.3, 0.1),
    (48, 2.0, 0.1),
    (32, 6.0, 0.5),
)
ROUND = 12_000_000  # operations listed in one run


def offsets(hunt: Hunt, share: float) -> None:
    """Offset search from several seeds in several ways, two at a time."""
    mean = offsetting.mean_ticks(hunt.model)
    end = hunt.left() * (1 - share)
    moves = max(200, min(20_000, ROUND // max(1, hunt.model.size)))
    if hunt.budget.effort is not None or not fast():
        moves = max(50, moves // 20)

    depth = max(s for _, s in hunt.model.stages) + 1

    if hunt.budget.effort is None:
        began, some = monotonic(), 20
        trial = offsetting.prepare(hunt.model, hunt.t, hunt.budget.seed)
        offsetting.run(trial, some, mean, mean / 50, 0.1, 32, hunt.span, False, hunt.enough)
        each = (monotonic() - began) / some
        moves = max(100, min(moves, int((hunt.left() - end) / 4 / each)))

    def work(k: int) -> Any:
        look, hot, weight = OFFSETS[k % len(OFFSETS)]
        late, halves = ((4, 2), (4 * depth, 1), (2 * depth, 2), (8 * depth, 1), (0, 2))[k // 2 % 5]
        search = offsetting.prepare(hunt.model, hunt.t, hunt.budget.seed + k, late, halves)
        heat, pairing = hot * mean, bool(hunt.model.pairs)
        value = offsetting.run(
            search, moves, heat, heat / 50, weight, look, hunt.span, pairing, hunt.enough
        )
        return search.best if value >= 0 else None

    turn = 0
    while hunt.left() > end and not hunt.over() and turn < 10 * len(OFFSETS):
        for k, word in enumerate(_side_by_side(work, range(turn, turn + CHAINS))):
            if word is not None:
                hunt.offer(word, "offsets", (turn + k) % 4)
        hunt.spent += moves * hunt.model.size
        turn += CHAINS


def _side_by_side(work: Callable[[int], Any], jobs: Iterable[int]) -> list[Any]:
    """The results of some jobs, on threads where loops are compiled."""
    if not fast():
        return [work(k) for k in jobs]
    with ThreadPoolExecutor(CHAINS) as pool:
        return list(pool.map(work, jobs))


def periodic(hunt: Hunt, share: float) -> None:
    """Steady states on grids of several roughnesses, unrolled: each a start of its own."""
    from stretto.compiler.order.periodic import grids, steady, suits, unroll

    if not solver() or not suits(hunt.model):
        return
    tries = list(grids(hunt.model))
    exact = hunt.budget.effort is not None
    end = hunt.left() * (1 - share)
    for k, grid in enumerate(tries):
        seconds = (hunt.left() - end) / (len(tries) - k)
        if seconds <= 0:
            return
        found = steady(hunt.model, grid, seconds, hunt.budget.seed, exact)
        if exact:
            hunt.spent += int(seconds * WORK)
        if found is not None:
            word = pack(hunt.t, unroll(hunt.model, *found))
            if word is not None:
                hunt.offer(word, "periodic", k)


def exact(hunt: Hunt, share: float) -> None:
    """CP-SAT on all of it, where it is small enough for a proof."""
    from stretto.compiler.order.exact import solve, suits

    if solver() and suits(hunt.model):
        seconds = hunt.left() * share
        solve(hunt, hunt.best.word, hunt.best.value, seconds)
        if hunt.budget.effort is not None:
            hunt.spent += int(seconds * WORK)


@cache
def solver() -> bool:
    """Whether CP-SAT is there."""
    try:
        import ortools  # noqa: F401
    except ImportError:
        return False
    return True


SMALL = 250  # operations: a search that can afford to forget its start
GENTLE = (0.1, 0.1, 0.05, 0.2, 0.07)  # temperatures, in mean durations, round by round
STRONG = (0.5, 0.35, 0.5, 0.2, 0.35)


def polish(hunt: Hunt, share: float) -> None:
    """Anneal: every start for a while, the better half of them for longer, and so on; then the
    best two again and again. Gently: what a good start has must not be lost at once."""
    began = hunt.left()
    end = began * (1 - share)
    starts = sorted(hunt.found.values(), key=lambda one: one.value)[:STARTS]
    rate = _rate(hunt, starts[0])
    turn = 0
    while hunt.left() > end and not hunt.over():
        room = hunt.left() - end
        moves = max(500, int(room / 4 * rate * CHAINS / max(CHAINS, len(starts))))
        results = _anneal_all(hunt, starts, moves, turn)
        pool = sorted([*results, *starts], key=lambda one: one.value)
        starts = _distinct(pool)[: max(CHAINS, len(starts) // 2)]
        turn += 1


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
    judge = annealing.prepare(t, samples, budget.seed)
    means = [annealing.evaluate(judge, ints(one.word), hunt.span) for one in starts]
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
            state = annealing.prepare(t, samples, budget.seed + turn)
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
    value = annealing.evaluate(hunt.state, ints(word), hunt.span)
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
        annealing.prepare(hunt.t, hunt.samples(), hunt.budget.seed + 1000 * turn + k + 1)
        for k in range(len(jobs))
    ]

    def work(k: int) -> Found | None:
        return _anneal(hunt, jobs[k], moves, _heat(hunt, jobs[k], turn), turn + k, states[k])

    results = _side_by_side(work, range(len(jobs)))
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
    weight = (0.1, 0.3, 0.05)[turn % 3]
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
