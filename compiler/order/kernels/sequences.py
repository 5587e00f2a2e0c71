"""Between words, as engines search them, and Orders."""

from collections.abc import Sequence
from dataclasses import dataclass

from stretto.compiler.order import Lane, Order
from stretto.compiler.order.fuse_backwards import merged
from stretto.compiler.order.kernels.arrays import Tables
from stretto.compiler.order.kernels.instance import Model
from stretto.compiler.order.kernels.replay import NOTHING


def pack(t: Tables, words: Sequence[Sequence[tuple[int, ...]]]) -> list[int] | None:
    """Letters, pairs as two, as one flat word of units; None if some pair may not overlap or the
    operations are not all there. A pair whose backward takes its weight gradient along stands for
    three."""
    stages = len(t.rank) // 3
    flat = [NOTHING] * len(t.ticks)
    seen = [0] * len(t.rank)
    for r, word in enumerate(words):
        p = t.word_at[r]
        for unit in word:
            if p == t.word_at[r + 1]:
                return None
            if len(unit) == 2:
                if not len(t.pair):
                    return None
                u = t.pair[unit[0] // 3 * stages + unit[1] // 3]
                if u < 0:
                    return None
                flat[p] = u
                if t.merged[u]:
                    seen[unit[1] + 1] += 1
            else:
                flat[p] = unit[0]
            for x in unit:
                seen[x] += 1
            p += 1
    return flat if seen == [int(many) for many in t.count] else None


def complete(t: Tables, word: Sequence[int]) -> bool:
    """Whether a flat word that comes from outside has every operation once, on its own rank; then
    it can be replayed."""
    if len(word) != len(t.ticks):
        return False
    seen = [0] * len(t.rank)
    for r in range(len(t.limit)):
        for u in word[t.word_at[r] : t.word_at[r + 1]]:
            if not NOTHING <= u < len(t.solo):
                return False
            if u == NOTHING:
                continue
            letters = [x for x in (t.solo[u], t.forward[u], t.back[u]) if x >= 0]
            if t.merged[u]:
                letters.append(t.back[u] + 1)
            for x in set(letters):
                if t.rank[x] != r:
                    return False
                seen[x] += 1
    return seen == [int(many) for many in t.count]


@dataclass(frozen=True, slots=True)
class _Units:
    """The units of every rank as places; backwards that run whole, as the places of their I and
    of their W."""

    lanes: list[list[tuple[int, ...]]]
    whole: dict[int, int]


def order_of(model: Model, t: Tables, word: Sequence[int], engine: str, proven: int = 0) -> Order:
    """The Order that the flat word says, of the Problem in which the backwards that it runs whole
    are whole."""
    listed = units(t, word)
    operation = model.operation
    together = {operation[i]: operation[w] for i, w in listed.whole.items()}
    problem, new = merged(model.problem, together)
    lanes = tuple(
        Lane(r, 0, tuple([tuple([new[operation[x]] for x in unit]) for unit in lane]))
        for r, lane in enumerate(listed.lanes)
    )
    return Order(problem, lanes, engine, proven)


def units(t: Tables, word: Sequence[int]) -> _Units:
    """Count through the word. Weight gradients that run alone are those whose backwards were not
    whole, oldest first."""
    found = _Units([], {})
    for r in range(len(t.limit)):
        seen = dict.fromkeys(
            [int(t.letter[k]) for k in range(t.letter_at[r], t.letter_at[r + 1])], 0
        )
        waiting: dict[int, list[int]] = {}
        lane: list[tuple[int, ...]] = []
        for p in range(t.word_at[r], t.word_at[r + 1]):
            u = int(word[p])
            if u < 0:
                continue
            x = int(t.solo[u])
            if x >= 0 and x % 3 == 2 and t.joint[x // 3] >= 0:
                n = waiting[x - 1].pop(0)
                lane.append((int(t.base[x]) + n,))
                continue
            unit = []
            for y in (x,) if x >= 0 else (int(t.forward[u]), int(t.back[u])):
                if y < 0:
                    continue
                n = seen[y]
                seen[y] += 1
                unit.append(int(t.base[y]) + n)
                if y % 3 == 1 and t.merged[u]:
                    found.whole[int(t.base[y]) + n] = int(t.base[y + 1]) + n
                elif y % 3 == 1:
                    waiting.setdefault(y, []).append(n)
            lane.append(tuple(unit))
        found.lanes.append(lane)
    return found
