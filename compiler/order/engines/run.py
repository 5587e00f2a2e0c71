"""The engines, each a function that looks for better words in a Hunt, within a share of what is
left to spend."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import islice
from time import monotonic
from typing import Any

from stretto.compiler.order.budget import Progress
from stretto.compiler.order.engines import local_search as annealing
from stretto.compiler.order.engines import modulo as circling
from stretto.compiler.order.engines import one_f_one_b as alternating
from stretto.compiler.order.engines import priorities as offsetting
from stretto.compiler.order.engines.priority_rules import Lists, rules
from stretto.compiler.order.engines.published import known
from stretto.compiler.order.kernels import evaluator
from stretto.compiler.order.kernels.jit import fast, ints, kept
from stretto.compiler.order.kernels.replay import NOTHING
from stretto.compiler.order.kernels.sequences import pack
from stretto.compiler.order.search_state import WORK, Hunt
from stretto.compiler.order.search_state import hunt as hunting

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
    if alternating.suits(hunt.model):
        numbers = next(alternating.starts(hunt.model))
        alternating.run(
            alternating.prepare(hunt.model, hunt.t, *numbers, 0), 0, 1.0, 1.0, 0.1, hunt.span, 0
        )
    if circling.suits(hunt.model):
        circles = circling.begin(hunt.model, hunt.state, 0)
        rounds, best = circling.copied(circles), word.copy()
        circling.run(hunt.state, circles, rounds, word, best, 0, 1.0, 1.0, 0.1, hunt.span, 0)
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


# How hot to begin (mean durations), how much the mean end counts.
TURNING = ((0.3, 0.1), (1.0, 0.1), (0.3, 0.5))


def alternate(hunt: Hunt, share: float) -> None:
    """Forwards and backwards in turn, from several starts, two at a time."""
    if not alternating.suits(hunt.model):
        return
    numbers = list(alternating.starts(hunt.model))
    end = hunt.left() * (1 - share)
    began = monotonic()
    for ahead, wait in numbers:
        search = alternating.prepare(hunt.model, hunt.t, ahead, wait, 0)
        if alternating.run(search, 0, 1.0, 1.0, 0.1, hunt.span, hunt.enough) >= 0:
            hunt.offer(search.best, "alternating")
    each = max(1e-6, (monotonic() - began) / len(numbers))
    mean = offsetting.mean_ticks(hunt.model)
    moves = max(200, min(40_000, 80 * WORK // hunt.model.size))
    if hunt.budget.effort is not None or not fast():
        moves = max(100, moves // 20)
    if hunt.budget.effort is None:
        moves = max(100, min(moves, int((hunt.left() - end) / 4 / each)))

    def work(k: int) -> Any:
        ahead, wait = numbers[k % len(numbers)]
        search = alternating.prepare(hunt.model, hunt.t, ahead, wait, hunt.budget.seed + k)
        hot, weight = TURNING[k // CHAINS % len(TURNING)]
        hot *= mean
        value = alternating.run(search, moves, hot, mean / 50, weight, hunt.span, hunt.enough)
        return search.best if value >= 0 else None

    turn = 0
    while hunt.left() > end and not hunt.over() and turn < 4 * len(numbers):
        for k, word in enumerate(side_by_side(work, range(turn, turn + CHAINS))):
            if word is not None:
                hunt.offer(word, "alternating", (turn + k) % 4)
        hunt.spent += moves * hunt.model.size
        turn += CHAINS


def paces(hunt: Hunt) -> None:
    """Circles as they are to begin with, where nothing may be searched."""
    longest = LONG if fast() else LONG // 10
    if circling.suits(hunt.model) and hunt.model.size <= longest:
        for seed in range(2):
            word = ints([NOTHING] * hunt.model.size)
            circles = circling.begin(hunt.model, hunt.state, seed)
            for r in range(hunt.model.ranks):
                circling.unroll(hunt.t, circles, r, word)
            hunt.offer(word, "periodic", seed)


CIRCLES = 8  # that are kept as starts
HEATS = (0.03, 0.1, 0.01, 0.3)  # to begin with, in mean durations for each micro-batch
LONG = 20_000  # operations, beyond which circles are judged by fewer micro-batches
TURNS = 3  # times the depth of the chain: how many these are


def periodic(hunt: Hunt, share: float, seed: int = 0) -> None:
    """Circles from several seeds, from `seed` on, two at a time."""
    if not circling.suits(hunt.model):
        return
    short = hunt
    if hunt.model.size > LONG:
        depth = max(s for _, s in hunt.model.stages) + 1
        few = circling.shortened(hunt.model, TURNS * depth)
        short = hunting(few, hunt.budget, hunt.bound) if few.size < hunt.model.size else hunt
    model, size = short.model, short.model.size
    end = hunt.left() * (1 - share)
    mean, many = offsetting.mean_ticks(model), max(model.count)
    enough = hunt.enough if short is hunt else 0
    moves = max(500, min(200_000, 300 * WORK // size))
    if hunt.budget.effort is not None or not fast():
        moves = max(500, moves // 20)

    def work(k: int, moves: int = 0) -> Any:
        state = evaluator.prepare(short.t, short.samples(), hunt.budget.seed + k)
        circles = circling.begin(model, state, k)
        word = ints([NOTHING] * size)
        best, rounds = word.copy(), circling.copied(circles)
        hot, cold = HEATS[k % len(HEATS)] * mean * many, 0.1 * mean
        value = circling.run(
            state, circles, rounds, word, best, moves, hot, cold, 0.5, hunt.span, enough
        )
        if value < 0 or short is hunt:
            return best if value >= 0 else None
        whole = ints([NOTHING] * hunt.model.size)
        for r in range(hunt.model.ranks):
            circling.unroll(hunt.t, rounds, r, whole)
        return whole

    if work(0) is None:
        return  # pipelines that have to take turns
    if hunt.budget.effort is None:
        began = monotonic()
        work(0, 100)
        each = (monotonic() - began) / 100
        moves = max(500, min(moves, int((hunt.left() - end) / 3 / each)))
    turn = seed
    while hunt.left() > end and not hunt.over():
        jobs = range(turn, turn + CHAINS)
        for k, word in enumerate(side_by_side(lambda k: work(k, moves), jobs)):
            if word is not None:
                hunt.offer(word, "periodic", (turn + k) % CIRCLES)
        hunt.spent += moves * size
        turn += CHAINS


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
        for k, word in enumerate(side_by_side(work, range(turn, turn + CHAINS))):
            if word is not None:
                hunt.offer(word, "offsets", (turn + k) % 4)
        hunt.spent += moves * hunt.model.size
        turn += CHAINS


def side_by_side(work: Callable[[int], Any], jobs: Iterable[int]) -> list[Any]:
    """The results of some jobs, on threads where loops are compiled."""
    if not fast():
        return [work(k) for k in jobs]
    with ThreadPoolExecutor(CHAINS) as pool:
        return list(pool.map(work, jobs))


def exact(hunt: Hunt, share: float) -> None:
    """CP-SAT on all of it, where it is small enough for a proof."""
    from stretto.compiler.order.engines.cpsat.solve import solve, suits

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
