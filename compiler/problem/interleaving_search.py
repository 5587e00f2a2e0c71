"""A shorter sequence of the links of two operations, or none: a search over the beginnings of
sequences, one link longer at a time.

What a beginning leaves to decide is how many links of either operation it has, which weight
gradients still wait, when each stream is free and when either operation can go on. Of beginnings
that have placed the same, one that is later in everything is dropped; so is one that leaves a gap
on a stream in which something ready fits whole (it would have delayed nothing), and one that cannot
end early enough. A weight gradient waits for nothing but its turn: the link that it needs is on
its own stream; those of equal length are alike. Every beginning that is left is kept, and then
the result is a shortest, or a `width` of them, and then it is the best that so many steps find.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Optional

from stretto.compiler.problem.strands import Places, Strand


class _Beginning(NamedTuple):
    """`times`: when each stream is free, then when each operation can go on. `bound`: ticks below
    which no sequence ends that begins so. `move`: what was placed last, the next link of operation
    0 or 1, or 2 + k: a weight gradient of the k-th length."""

    times: tuple[int, ...]
    bound: int
    move: int
    before: Optional["_Beginning"]


class _Placed(NamedTuple):
    """Steps placed of either operation, and how many weight gradients of each length wait."""

    steps: tuple[int, int]
    waiting: tuple[int, ...]


class _ChainStep(NamedTuple):
    """A link that is no weight gradient, and the length of the one that needs it; -1 if none."""

    stream: int
    ticks: int
    weight: int


@dataclass(frozen=True, slots=True)
class _StepChain:
    """An operation: its steps; `tail[k]`, ticks from when step k can start to the end of the last
    of what follows; `load[k]`, ticks of each stream from step k on."""

    steps: list[_ChainStep]
    tail: list[int]
    load: list[list[int]]


@dataclass(frozen=True, slots=True)
class TwoOperations:
    """Both operations, the lengths of their weight gradients, without 0, and how many of each
    length wait from the start."""

    chains: list[_StepChain]
    lengths: list[int]
    waiting: tuple[int, ...]
    streams: int


def least_ticks(strands: Sequence[Strand]) -> int:
    """Ticks below which no sequence of the two ends."""
    two = operations_of(strands)
    return _bound(two, _Placed((0, 0), two.waiting), [0] * (two.streams + 2))


def shorter(strands: Sequence[Strand], below: int, width: int | None) -> Places | None:
    """A sequence that ends in fewer than `below` ticks, a shortest one if all beginnings are kept;
    None if none is found."""
    two = operations_of(strands)
    start = _Placed((0, 0), two.waiting)
    times = (0,) * (two.streams + 2)
    layer = {start: [_Beginning(times, _bound(two, start, times), -1, None)]}
    while layer:
        following: dict[_Placed, list[_Beginning]] = {}
        for placed, some in layer.items():
            for beginning in some:
                for after, longer in _longer(two, placed, beginning):
                    if longer.bound < below:
                        following.setdefault(after, []).append(longer)
        if not following:
            break
        layer = {after: _undominated(some) for after, some in following.items()}
        if width is not None:
            layer = _best(layer, width)
    ends = [one for placed, some in layer.items() if _complete(two, placed) for one in some]
    return _sequence(strands, two, min(ends)) if ends else None


def operations_of(strands: Sequence[Strand]) -> TwoOperations:
    """The two as a search needs them."""
    lengths = sorted({w.ticks for strand in strands for w in strand if w.weight and w.ticks})
    streams = 1 + max((link.stream for strand in strands for link in strand), default=0)
    waiting = [0] * len(lengths)
    chains = []
    for strand in strands:
        steps: list[_ChainStep] = []
        for stream, ticks, weight in strand:
            if not weight:
                steps.append(_ChainStep(stream, ticks, -1))
            elif ticks and steps:
                steps[-1] = steps[-1]._replace(weight=lengths.index(ticks))
            elif ticks:
                waiting[lengths.index(ticks)] += 1
        chains.append(_chain(steps, lengths, streams))
    return TwoOperations(chains, lengths, tuple(waiting), streams)


def _chain(steps: list[_ChainStep], lengths: list[int], streams: int) -> _StepChain:
    tail, load = [0], [[0] * streams]
    for stream, ticks, weight in reversed(steps):
        own = lengths[weight] if weight >= 0 else 0
        tail.append(ticks + max(tail[-1], own))
        row = list(load[-1])
        row[stream] += ticks + own
        load.append(row)
    return _StepChain(steps, tail[::-1], load[::-1])


def _bound(two: TwoOperations, placed: _Placed, times: Sequence[int]) -> int:
    """What is left of each stream has to run on it, what is left of each operation one after the
    other."""
    ((i, j), waiting), (one, other), n = placed, two.chains, two.streams
    ends = [a + b + c for a, b, c in zip(times, one.load[i], other.load[j], strict=False)]
    ends[0] += sum(many * ticks for many, ticks in zip(waiting, two.lengths, strict=True))
    return max(*ends, times[n] + one.tail[i], times[n + 1] + other.tail[j])


def _longer(
    two: TwoOperations, placed: _Placed, beginning: _Beginning
) -> Iterator[tuple[_Placed, _Beginning]]:
    """The beginnings that have one link more."""
    times, n = beginning.times, two.streams
    (i, j), waiting = placed
    able = [
        (o, step, max(times[step.stream], times[n + o]))
        for o, chain, at in ((0, two.chains[0], i), (1, two.chains[1], j))
        for step in chain.steps[at : at + 1]
    ]
    fits = min((t for t, many in zip(two.lengths, waiting, strict=True) if many), default=None)
    for o, (stream, ticks, weight), start in able:
        if start > times[stream]:
            if stream == 0 and fits is not None and times[0] + fits <= start:
                continue
            if any(
                p != o and its.stream == stream and (at + its.ticks, p) < (start, o)
                for p, its, at in able
            ):
                continue
        after = list(times)
        after[stream] = after[n + o] = start + ticks
        waits = _counted(waiting, weight, 1) if weight >= 0 else waiting
        now = _Placed((i + 1, j) if o == 0 else (i, j + 1), waits)
        yield now, _beginning(two, now, after, o, beginning)
    for k, many in enumerate(waiting):
        if many:
            after = list(times)
            after[0] += two.lengths[k]
            now = _Placed(placed.steps, _counted(waiting, k, -1))
            yield now, _beginning(two, now, after, 2 + k, beginning)


def _counted(waiting: tuple[int, ...], k: int, more: int) -> tuple[int, ...]:
    return (*waiting[:k], waiting[k] + more, *waiting[k + 1 :])


def _beginning(
    two: TwoOperations, placed: _Placed, times: list[int], move: int, before: _Beginning
) -> _Beginning:
    """An operation cannot go on before the stream of its next link is free: said so, more
    beginnings compare."""
    for o, chain in enumerate(two.chains):
        if placed.steps[o] < len(chain.steps):
            free = times[chain.steps[placed.steps[o]].stream]
            times[two.streams + o] = max(times[two.streams + o], free)
    return _Beginning(tuple(times), _bound(two, placed, times), move, before)


def _undominated(some: list[_Beginning]) -> list[_Beginning]:
    """Without those that are later in everything than another one."""
    some.sort(key=lambda one: one.times)
    kept: list[_Beginning] = []
    for one in some:
        times = one.times
        if not any(all(map(int.__le__, other.times, times)) for other in kept):
            kept.append(one)
    return kept


def _best(layer: dict[_Placed, list[_Beginning]], width: int) -> dict[_Placed, list[_Beginning]]:
    """The `width` beginnings with the lowest bounds."""
    ranked = sorted(
        ((one.bound, one.times, placed, one) for placed, some in layer.items() for one in some),
        key=lambda entry: entry[:3],
    )
    kept: dict[_Placed, list[_Beginning]] = {}
    for _, _, placed, one in ranked[:width]:
        kept.setdefault(placed, []).append(one)
    return kept


def _complete(two: TwoOperations, placed: _Placed) -> bool:
    return not any(placed.waiting) and all(
        many == len(chain.steps) for many, chain in zip(placed.steps, two.chains, strict=True)
    )


def _sequence(strands: Sequence[Strand], two: TwoOperations, end: _Beginning) -> Places:
    """The links that were placed, from the first to the last; of weight gradients of one length
    the one that waited longest. Those of length 0 stand behind what they need."""
    moves = []
    one: _Beginning | None = end
    while one is not None and one.move >= 0:
        moves.append(one.move)
        one = one.before
    rest = [deque(enumerate(strand)) for strand in strands]
    waiting: list[deque[tuple[int, int]]] = [deque() for _ in two.lengths]
    sequence: list[tuple[int, int]] = []

    def weights(o: int) -> None:
        """Those that may run now."""
        while rest[o] and rest[o][0][1].weight:
            i, link = rest[o].popleft()
            if link.ticks:
                waiting[two.lengths.index(link.ticks)].append((o, i))
            else:
                sequence.append((o, i))

    weights(0)
    weights(1)
    for move in reversed(moves):
        if move < 2:
            sequence.append((move, rest[move].popleft()[0]))
            weights(move)
        else:
            sequence.append(waiting[move - 2].popleft())
    return tuple(sequence)
