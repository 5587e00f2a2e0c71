"""Small changes of one rank's sequence, for local search: a unit moved or swapped with another, two
that may overlap merged into a pair, a pair split. Each writes into `sequence` and returns whether
it changed anything that makes sense; whoever calls keeps a copy. Random numbers come from a small
generator of whole numbers, so that a seed gives the same search compiled or not.
"""

from stretto.compiler.order.kernels.arrays import Arrays
from stretto.compiler.order.kernels.bundle import Ints
from stretto.compiler.order.kernels.jit import inner
from stretto.compiler.order.kernels.op_classes import BACK, F, W, kind_of, stage_of, stages_in
from stretto.compiler.order.kernels.replay import NOTHING


@inner
def draw(state: Ints, below: int) -> int:
    """A whole number from 0 to below - 1 (Park and Miller's generator)."""
    state[0] = state[0] * 48271 % 2147483647
    return int(state[0] % below)


@inner
def shift(sequence: Ints, a: int, b: int) -> None:
    """Move what is at position a to position b; what is between moves up."""
    u = sequence[a]
    step = 1 if b > a else -1
    p = a
    while p != b:
        sequence[p] = sequence[p + step]
        p += step
    sequence[b] = u


@inner
def is_fixed(t: Arrays, u: int) -> bool:
    """Whether the author wrote where this unit stands among others that he wrote."""
    if u < 0:
        return False
    if t.single[u] >= 0:
        return bool(t.fixed[t.single[u]] > 0)
    return bool(t.fixed[t.backward[u]] > 0)


@inner
def may_pass(t: Arrays, sequence: Ints, a: int, b: int) -> bool:
    """Whether the unit at a may go to b: it changes something, and passes nothing that was
    written before or after it."""
    lo, hi = min(a, b), max(a, b)
    same, written, fixed = True, False, is_fixed(t, sequence[a])
    for p in range(lo, hi + 1):
        if sequence[p] != sequence[a] and sequence[p] >= 0:
            same = False
        if p != a and fixed and is_fixed(t, sequence[p]):
            written = True
    return not same and not written


@inner
def move(t: Arrays, sequence: Ints, a: int, b: int) -> bool:
    """Move the unit at a to b."""
    if sequence[a] < 0 or not may_pass(t, sequence, a, b):
        return False
    shift(sequence, a, b)
    return True


@inner
def swap(t: Arrays, sequence: Ints, a: int, b: int) -> bool:
    """Swap the units at a and b."""
    if sequence[a] < 0 or sequence[b] < 0 or sequence[a] == sequence[b]:
        return False
    if not may_pass(t, sequence, a, b) or not may_pass(t, sequence, b, a):
        return False
    u = sequence[a]
    sequence[a] = sequence[b]
    sequence[b] = u
    return True


@inner
def merge(t: Arrays, sequence: Ints, lo: int, hi: int, a: int, state: Ints) -> bool:
    """Make a pair of the forward or backward alone at a and a partner close to it; the rank's
    sequence is lo … hi - 1. A backward that takes its weight gradient with it takes the next
    one."""
    u = sequence[a]
    if u < 0 or len(t.pair) == 0 or t.single[u] < 0 or kind_of(t.single[u]) == W:
        return False
    x = t.single[u]
    stages = stages_in(len(t.rank))
    step = 1 if draw(state, 2) == 0 else -1
    skip = draw(state, 3)
    b = a + step
    while lo <= b < hi and abs(b - a) <= 12:
        v = sequence[b]
        y = -1
        if v >= 0 and t.single[v] >= 0 and kind_of(t.single[v]) == BACK - kind_of(x):
            y = t.single[v]
        if y >= 0:
            forward, back = (x, y) if kind_of(x) == F else (y, x)
            pair = t.pair[stage_of(forward) * stages + stage_of(back)]
            if pair >= 0:
                if skip > 0:
                    skip -= 1
                else:
                    sequence[a] = pair
                    sequence[b] = NOTHING
                    return t.fused[pair] == 0 or take_weight(
                        t, sequence, min(a, b), hi, back - BACK + W
                    )
        b += step
    return False


@inner
def take_weight(t: Arrays, sequence: Ints, a: int, hi: int, w: int) -> bool:
    """Remove the first W of class w from position a on."""
    for p in range(a, hi):
        if sequence[p] == w:
            sequence[p] = NOTHING
            return True
    return False


@inner
def split(t: Arrays, sequence: Ints, lo: int, hi: int, a: int, state: Ints) -> bool:
    """Split the pair (or full backward) at a into what it is made of."""
    u = sequence[a]
    if u < 0 or t.single[u] >= 0:
        return False
    x, b = t.forward[u], t.backward[u]
    if x >= 0:
        first, second = (x, b) if draw(state, 2) == 0 else (b, x)
        sequence[a] = first
        if not put(sequence, lo, hi, a, second):
            return False
    else:
        sequence[a] = b
    if t.fused[u] > 0:
        after = min(hi - 1, a + draw(state, 12))
        return put(sequence, lo, hi, max(a, after), b - BACK + W)
    return True


@inner
def put(sequence: Ints, lo: int, hi: int, a: int, u: int) -> bool:
    """Put unit u right after position a, using up the nearest free position."""
    for far in range(hi - lo):
        p = a + far
        if p < hi and sequence[p] == NOTHING:
            sequence[p] = u
            shift(sequence, p, min(a + 1, p))
            return True
        p = a - far
        if p >= lo and sequence[p] == NOTHING:
            sequence[p] = u
            shift(sequence, p, a)
            return True
    return False


@inner
def join(t: Arrays, sequence: Ints, hi: int, a: int) -> bool:
    """Run the backward at a in full, with the next weight gradient of its stage."""
    u = sequence[a]
    if (
        u < 0
        or t.single[u] < 0
        or kind_of(t.single[u]) != BACK
        or t.full_backward[stage_of(t.single[u])] < 0
    ):
        return False
    x = t.single[u]
    sequence[a] = t.full_backward[stage_of(x)]
    return take_weight(t, sequence, a, hi, x - BACK + W)
