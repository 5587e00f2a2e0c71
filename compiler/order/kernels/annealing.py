"""What every annealing shares: how hot it is at each move, what it judges by, and which of the
worse candidates it accepts. The loops themselves stand with the engines: numba keeps no compiled
function on disk that another was handed to, so that one loop for all would be compiled anew by
every process.
"""

from math import exp, log
from typing import NamedTuple

from stretto.compiler.order.kernels.bundle import Ints
from stretto.compiler.order.kernels.jit import inner
from stretto.compiler.order.kernels.moves import draw


class Cooling(NamedTuple):
    """So many moves, from temperature `hot` down to `cold` (ticks), by the same factor each."""

    moves: int
    hot: float
    cold: float


class Goal(NamedTuple):
    """What a candidate costs (ticks): the makespan, or the `span`, and `weight` times the mean end
    of the ranks, without which plateaus stop the search. The search ends at `enough`."""

    span: bool
    weight: float
    enough: int


@inner
def heat(cooling: Cooling, move: int) -> float:
    """The temperature at this move."""
    return cooling.hot * exp(log(cooling.cold / cooling.hot) * move / cooling.moves)


@inner
def threshold(cost: float, heat: float, random: Ints) -> float:
    """The cost up to which the next candidate is accepted (Metropolis' rule, with the chance drawn
    before the candidate is timed, so that its replay may stop as soon as it is too late)."""
    return cost - heat * log((1 + draw(random, 1 << 30)) / (1 << 30))


@inner
def cutoff(threshold: float, mean: float, heat: float, goal: Goal) -> int:
    """The makespan (ticks) at which a replay may stop: a candidate that ends later is too bad,
    unless its mean end were less than that of the last one, `mean`, by more than the heat."""
    if goal.span:
        return 1 << 60
    return int(threshold - goal.weight * mean + goal.weight * heat) + 1


@inner
def copy(source: Ints, target: Ints) -> None:
    """Write the integers of `source` over those of `target`, which is as long."""
    for k in range(len(source)):
        target[k] = source[k]
