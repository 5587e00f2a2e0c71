"""What published schedules are written with: one rank's units, and the patterns that several of
them share."""

from collections import deque
from collections.abc import Callable, Sequence

from stretto.compiler.order.kernels.instance import NO_LIMIT, SearchInstance
from stretto.compiler.order.kernels.op_classes import (
    BACK,
    W,
    backward_of,
    forward_of,
    weight_of,
)

OpUnit = tuple[int, ...]
"""One op class, or a forward and the backward that it overlaps."""


class RankWriter:
    """Writes one rank's `units`. It may write too much: what goes beyond the micro-batches is cut
    off. Whether they keep to the memory limit is not decided here. `waiting`: stages whose weight
    gradients wait, oldest first."""

    def __init__(self, instance: SearchInstance):
        self.instance = instance
        self.units: list[OpUnit] = []
        self.waiting: deque[int] = deque()

    def f(self, stage: int) -> None:
        """A forward."""
        self.units.append((forward_of(stage),))

    def i(self, stage: int) -> None:
        """A backward; its weight gradient waits, where it has one."""
        self.units.append((backward_of(stage),))
        if self.instance.count[weight_of(stage)]:
            self.waiting.append(stage)

    def b(self, stage: int) -> None:
        """A backward and its weight gradient, where it has one."""
        self.units.append((backward_of(stage),))
        if self.instance.count[weight_of(stage)]:
            self.units.append((weight_of(stage),))

    def w(self) -> None:
        """The oldest weight gradient that waits; nothing where none does."""
        if self.waiting:
            self.units.append((weight_of(self.waiting.popleft()),))

    def fb(self, forward: int, backward: int) -> None:
        """The two overlapped, or one after the other where that is not to be had or no gain."""
        f, b = forward_of(forward), backward_of(backward)
        ticks = self.instance.pairs.get((f, b))
        alone = self._ticks(f) + self._ticks(b) + self._ticks(b - BACK + W)
        if ticks is not None and ticks <= alone:
            self.units.append((f, b))
        else:
            self.f(forward)
            self.b(backward)

    def _ticks(self, x: int) -> int:
        return self.instance.duration[self.instance.base[x]] if self.instance.count[x] else 0


Writer = Callable[[int, RankWriter], None]
"""Writes the units of the rank at this place of the chain."""


def one_forward_one_backward(
    pen: RankWriter, forward: list[int], backward: list[int], warmup: int, held: int
) -> None:
    """Write forwards for the warm-up, then forward and backward in turn, to the end of both; the
    first `held` weight gradients stay for the end."""
    first = max(0, min(len(forward), warmup))
    for stage in forward[:first]:
        pen.f(stage)
    for k, stage in enumerate(backward):
        if first + k < len(forward):
            pen.f(forward[first + k])
        pen.i(stage)
        if k >= held:
            pen.w()
    while pen.waiting:
        pen.w()


def dualpipe_steps(
    pen: RankWriter, d: int, ranks: int, many: int, near: int, far: int, overlap: bool
) -> None:
    """The eight steps of DeepSeek's `DualPipe.step` at distance d from the nearer end; the same
    on a V of half the ranks (`DualPipeV`). `many` micro-batches enter at each end."""
    half = ranks // 2

    def fb(forward: int, backward: int) -> None:
        if overlap:
            pen.fb(forward, backward)
        else:
            pen.f(forward)
            pen.b(backward)

    for _ in range(2 * (half - 1 - d)):
        pen.f(near)
    for _ in range(d + 1):
        pen.f(near)
        pen.f(far)
    for _ in range(half - 1 - d):
        pen.i(far)
        pen.w()
        pen.f(far)
    for k in range(many - ranks + d + 1):
        if k == 0 and d == half - 1:
            pen.f(near)
            pen.b(far)
        else:
            fb(near, far)
        fb(far, near)
    for _ in range(half - 1 - d):
        pen.b(far)
        fb(far, near)
    for k in range(d + 1):
        (pen.i if 2 * k > d else pen.b)(far)
        (pen.i if 2 * k >= d else pen.b)(near)
    for _ in range(half - 1 - d):
        pen.w()
        pen.i(near)
    while pen.waiting:
        pen.w()


def room(instance: SearchInstance, stage: int) -> int:
    """How many activations of this stage its rank can hold."""
    x = forward_of(stage)
    limit, size = instance.limit[instance.rank[x]], instance.alloc[instance.base[x]]
    return instance.count[x] if limit >= NO_LIMIT or not size else limit // size


def cut(instance: SearchInstance, units: Sequence[OpUnit]) -> list[OpUnit]:
    """The units without what goes beyond the operations that there are. A pair that has lost one
    of its two is the other alone."""
    seen: dict[int, int] = {}
    kept = []
    for unit in units:
        fits = []
        for x in unit:
            seen[x] = seen.get(x, 0) + 1
            if seen[x] <= instance.count[x]:
                fits.append(x)
        if fits:
            kept.append(tuple(fits))
    return kept
