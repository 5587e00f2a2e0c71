"""Problem → `ResultFlow`: who uses whose results, and the channels between ranks on which these
travel. All Programs of a plan share it."""

from msgspec import Struct

from stretto.compiler.problem.problem import EdgeKind, Problem
from stretto.compiler.program.program import Channel, Traffic

ChannelKey = tuple[int, int, EdgeKind, int, int]
"""What makes a channel one of its own: its two ranks, the kind of its edges, its two streams."""


class ResultFlow(Struct, frozen=True):
    """For every operation: `uses`, the edges (of the Problem, by number) along which its result is
    used; `reads`, the operations whose results it uses, its own pipeline's first, then the others
    by their place in the file. `channels`: every directed pair of streams of two ranks between
    which results travel, by kind of traffic; `number` has that of each."""

    uses: list[tuple[int, ...]]
    reads: list[tuple[int, ...]]
    channels: tuple[Channel, ...]
    number: dict[ChannelKey, int]


def flow(problem: Problem) -> ResultFlow:
    """The edges of the Problem along which results are used."""
    rank, stream = problem.rank, problem.stream
    activation, gradient = EdgeKind.ACTIVATION, EdgeKind.GRADIENT  # an enum's attributes are slow
    uses: list[tuple[int, ...]] = [()] * len(problem.operations)
    reads: list[tuple[int, ...]] = [()] * len(problem.operations)
    found: set[ChannelKey] = set()
    several: set[int] = set()
    edges = zip(problem.tail, problem.head, problem.why, strict=True)
    for edge, (a, b, why) in enumerate(edges):
        if why is activation or why is gradient:
            uses[a] += (edge,)
            if reads[b]:
                several.add(b)
            reads[b] += (a,)
            if rank[a] != rank[b]:
                found.add((rank[a], rank[b], why, stream[a], stream[b]))
    for b in several:
        reads[b] = _in_order(problem, b, reads[b])
    by_channel = {Channel(a, b, traffic(why), s, t): (a, b, why, s, t) for a, b, why, s, t in found}
    channels = tuple(sorted(by_channel))
    return ResultFlow(uses, reads, channels, {by_channel[c]: k for k, c in enumerate(channels)})


def traffic(why: EdgeKind) -> Traffic:
    """What travels along an edge on which a result is used."""
    return "activation" if why is EdgeKind.ACTIVATION else "gradient"


def _in_order(problem: Problem, b: int, reads: tuple[int, ...]) -> tuple[int, ...]:
    """The results that operation b uses, in the order of `Compute.reads`."""
    own = problem.operations[b].pipeline

    def place(a: int) -> tuple[bool, int, int]:
        one = problem.operations[a]
        return one.pipeline != own, one.pipeline, one.stage

    return tuple(sorted(reads, key=place))
