"""A placement that is its own mirror image, folded: two pipelines of equal micro-batches in
opposite directions, say, do on rank P − 1 − r what they do on rank r with the directions exchanged.

An order that is its own image then needs only half of the ranks to be looked at: what waits for an
operation of the other half waits for the image of that. Such orders have all their longest paths in
pairs, and no move of one part alone would shorten them; folded they are half as many, and each move
is one of two parts. (DualPipe folded is DualPipeV on half the ranks.) Whether the best order is
among these nobody knows; what is found is unfolded, and may be improved as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from stretto.compiler.order.engines.parts.instance import Lanes, PartsInstance
from stretto.compiler.problem.problem import Holding, Problem
from stretto.compiler.problem.spec import NONE

SWAPS = {2: ((1, 0),), 4: ((1, 0, 3, 2), (2, 3, 0, 1), (3, 2, 1, 0))}
"""By the number of pipelines how their images may be paired."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """`half`: the instance folded, of whose ranks only some have operations; operation i of it
    stands for `kept[i]` and the `image` of that, operations of the `whole`."""

    whole: PartsInstance
    half: PartsInstance
    kept: list[int]
    image: list[int]

    def fold(self, lanes: Lanes) -> Lanes:
        """The lanes of the ranks that are kept."""
        new = {i: k for k, i in enumerate(self.kept)}
        return [[new[i] for i in row if i in new] for row in lanes]

    def unfold(self, lanes: Lanes) -> Lanes:
        """The lanes of all ranks."""
        found: Lanes = [[] for _ in lanes]
        for lane, row in enumerate(lanes):
            if row:
                found[lane] = [self.kept[i] for i in row]
                images = [self.image[i] for i in found[lane]]
                found[self.whole.lane[images[0]]] = images
        return found


def mirror_of(problem: Problem, instance: PartsInstance) -> Mirror | None:
    """How the instance can be folded, if it can."""
    for swap in SWAPS.get(len(problem.spec.pipelines), ()):
        image = _image(problem, swap)
        if image is not None and _same(instance, image):
            return _folded(instance, image)
    return None


def _image(problem: Problem, swap: Sequence[int]) -> list[int] | None:
    """By operation the one that its image would be; None where there is none."""
    index = {operation: i for i, operation in enumerate(problem.operations)}
    found = [index.get(o._replace(pipeline=swap[o.pipeline]), NONE) for o in problem.operations]
    return None if NONE in found else found


def _same(instance: PartsInstance, image: Sequence[int]) -> bool:
    """Whether the image of everything is there, each rank's on another rank."""
    lane: dict[int, int] = {}
    for i, j in enumerate(image):
        same = instance.ticks[i] == instance.ticks[j] and instance.rank(i) != instance.rank(j)
        if not same or lane.setdefault(instance.lane[i], instance.lane[j]) != instance.lane[j]:
            return False
        if {(image[k], lag) for k, lag in instance.before[i]} != set(instance.before[j]):
            return False
    if any(lane[other] != own for own, other in lane.items()):
        return False
    holdings = {(g, i, frozenset(ends)) for g, i, ends in instance.holdings}
    images = {(g, image[i], frozenset(image[k] for k in ends)) for g, i, ends in instance.holdings}
    limits = all(
        instance.limit[own // instance.streams] == instance.limit[other // instance.streams]
        for own, other in lane.items()
    )
    return holdings == images and limits


def _folded(instance: PartsInstance, image: list[int]) -> Mirror:
    kept = [i for i, j in enumerate(image) if instance.rank(i) < instance.rank(j)]
    new = {i: k for k, i in enumerate(kept)}
    new |= {image[i]: k for i, k in list(new.items())}
    half = PartsInstance(
        streams=instance.streams,
        ranks=instance.ranks,
        lane=[instance.lane[i] for i in kept],
        ticks=[instance.ticks[i] for i in kept],
        before=[[(new[j], lag) for j, lag in instance.before[i]] for i in kept],
        kin=[instance.kin[i] for i in kept],
        holdings=[
            Holding(grains, new[i], tuple(new[k] for k in ends))
            for grains, i, ends in instance.holdings
            if instance.rank(i) < instance.rank(image[i])
        ],
        limit=instance.limit,
    )
    return Mirror(instance, half, kept, image)
