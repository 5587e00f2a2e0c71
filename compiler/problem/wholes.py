"""Whole operations and their parts: what `F`, `B`, `I` and `W` of a stage that is cut stand for."""

from collections.abc import Callable, Iterable
from functools import lru_cache

from stretto.compiler.problem.spec import Kind, Part
from stretto.compiler.problem.strands import Strand, StrandLink

OwnParts = tuple[tuple[Kind, int], ...]
"""Parts of one operation in the sequence that they have alone: kind, index into the chain."""


@lru_cache(maxsize=1024)
def parts_of(kind: Kind, chain: tuple[Part, ...], split_backward: bool) -> OwnParts:
    """The parts of a whole operation. F goes through the chain from the first part to the last, the
    others from the last to the first. W has a part for each one on stream 0. Where backwards are
    split, a B is an I with each part of W straight behind its own of I."""
    if kind == "F":
        return tuple(("F", k) for k in range(len(chain)))
    mirrored = [(k, chain[k].stream) for k in reversed(range(len(chain)))]
    if kind == "W":
        return tuple(("W", k) for k, stream in mirrored if stream == 0)
    if kind == "I" or not split_backward:
        return tuple((kind, k) for k, _ in mirrored)
    each: list[tuple[Kind, int]] = []
    for k, stream in mirrored:
        each += [("I", k), ("W", k)] if stream == 0 else [("I", k)]
    return tuple(each)


def strand(
    own: Iterable[tuple[Kind, int]], chain: tuple[Part, ...], ticks: Callable[[Kind, int], int]
) -> Strand:
    """The operation as its interleaving with another one sees it."""
    return tuple(StrandLink(chain[k].stream, ticks(kind, k), kind == "W") for kind, k in own)
