"""How short a sequence of the links of two operations could be if weight gradients could be
interrupted: a bound for the search, which then is not left with every set of them that may wait.

Nobody needs a weight gradient, so the other links never make way for one: it fills the gaps that
they leave on stream 0, and what is left of all of them runs at the end. What a beginning leaves to
decide is then, beside how many links of either operation it has, only when the streams are free,
when either operation can go on, and how many ticks of weight gradients wait.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from stretto.compiler.problem.interleaving_search import TwoOperations, operations_of
from stretto.compiler.problem.strands import Places, Strand

MOST_STATES = 2000
"""For each number of links."""


class _Interruptible(NamedTuple):
    """`state`: when each stream is free, when each operation can go on, and the ticks of weight
    gradients that wait. `move`: the operation whose link was placed last."""

    state: tuple[int, ...]
    move: int
    before: Optional["_Interruptible"]


_Steps = tuple[int, int]


def interruptible(strands: Sequence[Strand], below: int) -> tuple[int, Places] | None:
    """Ticks below which no sequence of the two ends, and the sequence of the links that are no
    weight gradients, each of which has its weight gradient straight behind it. None if no sequence
    ends in fewer than `below` ticks. 0 ticks and no sequence where more than `MOST_STATES` would
    have to be kept to know."""
    two = operations_of(strands)
    waiting = sum(n * ticks for n, ticks in zip(two.waiting, two.lengths, strict=True))
    first = _Interruptible((*(0,) * (two.streams + 2), waiting), -1, None)
    layer: dict[_Steps, list[_Interruptible]] = {(0, 0): [first]}
    for _ in range(sum(len(chain.steps) for chain in two.chains)):
        following: dict[_Steps, list[_Interruptible]] = {}
        for steps, some in layer.items():
            for one in some:
                for after, state, move in _longer(two, steps, one.state):
                    if _bound(two, after, state) < below:
                        following.setdefault(after, []).append(_Interruptible(state, move, one))
        if sum(map(len, following.values())) > MOST_STATES:
            return 0, ()
        layer = {after: _undominated(some) for after, some in following.items()}
    ends = [(_bound(two, steps, one.state), one) for steps, some in layer.items() for one in some]
    if not ends:
        return None
    ticks, last = min(ends, key=lambda end: (end[0], end[1].state))
    return ticks, _sequence(strands, last)


def _longer(
    two: TwoOperations, steps: _Steps, state: tuple[int, ...]
) -> Iterator[tuple[_Steps, tuple[int, ...], int]]:
    n = two.streams
    for o in (0, 1):
        if steps[o] == len(two.chains[o].steps):
            continue
        stream, ticks, weight = two.chains[o].steps[steps[o]]
        after = list(state)
        start = max(state[stream], state[n + o])
        if stream == 0:
            after[-1] = max(0, state[-1] - (start - state[0]))
            after[-1] += two.lengths[weight] if weight >= 0 else 0
        after[stream] = after[n + o] = start + ticks
        now = (steps[0] + 1, steps[1]) if o == 0 else (steps[0], steps[1] + 1)
        _settle(two, now, after)
        yield now, tuple(after), o


def _settle(two: TwoOperations, steps: _Steps, state: list[int]) -> None:
    """No operation goes on before the stream of its next link is free, and on no stream anything
    but weight gradients starts before one of the two goes on: said so, more states compare."""
    n, ready = two.streams, []
    for o, chain in enumerate(two.chains):
        if steps[o] < len(chain.steps):
            state[n + o] = max(state[n + o], state[chain.steps[steps[o]].stream])
            ready.append(state[n + o])
    if not ready:
        return
    soonest = min(ready)
    if soonest > state[0]:
        state[-1] = max(0, state[-1] - (soonest - state[0]))
    for stream in range(n):
        state[stream] = max(state[stream], soonest)


def _bound(two: TwoOperations, steps: _Steps, state: Sequence[int]) -> int:
    (one, other), n = two.chains, two.streams
    (i, j) = steps
    ends = [a + b + c for a, b, c in zip(state, one.load[i], other.load[j], strict=False)]
    ends[0] += state[-1]
    return max(*ends, state[n] + one.tail[i], state[n + 1] + other.tail[j])


def _undominated(some: list[_Interruptible]) -> list[_Interruptible]:
    some.sort(key=lambda one: one.state)
    kept: list[_Interruptible] = []
    for one in some:
        if not any(all(map(int.__le__, other.state, one.state)) for other in kept):
            kept.append(one)
    return kept


def _sequence(strands: Sequence[Strand], last: _Interruptible) -> Places:
    moves = []
    one: _Interruptible | None = last
    while one is not None and one.move >= 0:
        moves.append(one.move)
        one = one.before
    at = [0, 0]
    sequence: list[tuple[int, int]] = []

    def weights(o: int) -> None:
        while at[o] < len(strands[o]) and strands[o][at[o]].weight:
            sequence.append((o, at[o]))
            at[o] += 1

    weights(0)
    weights(1)
    for o in reversed(moves):
        sequence.append((o, at[o]))
        at[o] += 1
        weights(o)
    return tuple(sequence)
