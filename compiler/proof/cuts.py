"""The most that a rank can hold at once, over all relative speeds of its streams: `most_held` goes
through every state in which the rank can be.

A state says of every stream how many of its operations have begun, the last of which may not have
ended. Only operations that take or free memory count. The next operation of a stream can begin when
all that comes before it on the rank has ended; on its own stream that is the one before.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from stretto.compiler.proof.ledger import PartTable

MOST = 200_000
"""States of one rank that are gone through."""


def most_held(
    streams: Sequence[int],
    held: Sequence[tuple[int, int, tuple[int, ...]]],
    table: PartTable,
    enough: int,
) -> int | None:
    """The most grains held in any state, or the first found above `enough`; None where there are
    more than `MOST` states. `held` has amounts: grains, the number of what takes them, those of
    what frees them; `table` what comes before each of these on the rank."""
    rank = _RankStates(streams, held, table)
    start: CutState = (0,) * len(rank.rows)
    holds: dict[CutState, int] = {start: 0}
    todo: list[CutState] = [start]
    most = 0
    while todo:
        state = todo.pop()
        for k, following in rank.following(state):
            if following not in holds:
                now = holds[following] = holds[state] + rank.change(following, k)
                most = max(most, now)
                if most > enough:
                    return most
                if len(holds) > MOST:
                    return None
                todo.append(following)
    return most


CutState = tuple[int, ...]
"""By stream twice the operations that ended, and 1 more where the next has begun."""


class _RankStates:
    """The operations of a rank that take or free memory: `rows`, by stream, their numbers; `needs`:
    of each how many of every row have ended before it begins; `taken`, `freed`: by row and place in
    it the grains taken, and what may be free: grains and the places of all that frees them."""

    def __init__(
        self,
        streams: Sequence[int],
        held: Sequence[tuple[int, int, tuple[int, ...]]],
        table: PartTable,
    ):
        placed = table.placed
        numbers = {n for _, taken_by, freed_by in held for n in (taken_by, *freed_by)}
        used = sorted({streams[placed[n]] for n in numbers})
        ordered = sorted(numbers, key=placed.__getitem__)
        self.rows = [[n for n in ordered if streams[placed[n]] == stream] for stream in used]
        places = [[placed[n] for n in row] for row in self.rows]
        self.needs = [
            [
                [bisect_right(row, table.heard[n][s]) for row, s in zip(places, used, strict=True)]
                for n in own
            ]
            for own in self.rows
        ]
        where = {n: (k, at) for k, row in enumerate(self.rows) for at, n in enumerate(row)}
        self.taken: dict[tuple[int, int], int] = {}
        self.freed: dict[tuple[int, int], list[tuple[int, list[tuple[int, int]]]]] = {}
        for grains, taken_by, freed_by in held:
            place = where[taken_by]
            self.taken[place] = self.taken.get(place, 0) + grains
            all_places = [where[n] for n in freed_by]
            for one in all_places:
                self.freed.setdefault(one, []).append((grains, all_places))

    def following(self, state: CutState) -> Iterator[tuple[int, CutState]]:
        """The states that one stream's next step leads to, each with that stream's row."""
        for k, row in enumerate(self.rows):
            many, running = divmod(state[k], 2)
            if not running:
                if many == len(row):
                    continue
                if any(2 * n > s for n, s in zip(self.needs[k][many], state, strict=True)):
                    continue
            yield k, (*state[:k], state[k] + 1, *state[k + 1 :])

    def change(self, state: CutState, k: int) -> int:
        """Grains that the last step, of row k, has taken (or less than 0: freed)."""
        at, began = divmod(state[k] - 1, 2)
        if not began:
            return self.taken.get((k, at), 0)
        return -sum(
            grains
            for grains, places in self.freed.get((k, at), ())
            if all(state[row] >= 2 * (place + 1) for row, place in places)
        )
