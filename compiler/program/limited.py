"""Order and its planned times → after what an operation that takes memory has to come, so that a
limit holds under every timing: `docs/instructions.md`, Memory of streams."""

from collections.abc import Callable, Iterable, Sequence

from stretto.compiler.problem.problem import Holding, Problem
from stretto.compiler.program.amounts import Amount, moments
from stretto.compiler.program.issue import Issue


def frees_before(
    problem: Problem,
    holdings: Sequence[Holding],
    issue: Issue,
    instead: Callable[[Holding], tuple[int, ...]] = lambda holding: holding.freed_by,
) -> dict[int, tuple[int, ...]]:
    """For each operation that takes memory on a rank with a limit those of the rank that have freed
    memory before it, or what is named `instead` of them, of each lane the last."""
    times, found = issue.times, {}
    for row in _by_rank(problem, holdings):
        last: dict[int, int] = {}  # by lane
        for taken, freed in moments([_amount(issue, k, holdings[k]) for k in row]):
            for one in freed:
                for i in instead(holdings[one.number]):
                    lane = times.lane[i]
                    if lane not in last or times.index[last[lane]] < times.index[i]:
                        last[lane] = i
            if last:
                found[holdings[taken[0].number].taken_by] = tuple(last.values())
    return found


def _by_rank(problem: Problem, holdings: Sequence[Holding]) -> Iterable[list[int]]:
    """The numbers of the holdings of each rank that has a limit."""
    rows: dict[int, list[int]] = {
        rank: [] for rank, limit in enumerate(problem.spec.limits) if limit is not None
    }
    for k, holding in enumerate(holdings):
        rank = problem.rank[holding.taken_by]
        if rank in rows:
            rows[rank].append(k)
    return rows.values()


def _amount(issue: Issue, number: int, holding: Holding) -> Amount:
    start, _, taken = _when(issue, holding.taken_by)
    freers = [_when(issue, i) for i in holding.freed_by]
    end, freed = max(one[1] for one in freers), max(one[2] for one in freers)
    return Amount(holding.grains, start, taken, end, freed, number)


def _when(issue: Issue, i: int) -> tuple[int, int, int]:
    """Start, end and place of an operation."""
    times = issue.times
    lane, k = times.lane[i], times.index[i]
    return times.start[lane][k], times.end[lane][k], times.place[lane][k]
