"""Small changes of one rank's word, for a search over words: a unit moved or swapped with another,
two that may overlap merged into a pair, a pair split. Each writes into `word` and returns whether
it changed anything that makes sense; whoever calls keeps a copy. Random numbers come from a small
generator of whole numbers, so that a seed gives the same search compiled or not.
"""

from stretto.compiler.order.kernels.arrays import Ints, Tables
from stretto.compiler.order.kernels.jit import compiled

NOTHING = -1


@compiled
def draw(state: Ints, below: int) -> int:
    """A whole number from 0 to below - 1 (Park and Miller's generator)."""
    state[0] = state[0] * 48271 % 2147483647
    return int(state[0] % below)


@compiled
def shift(word: Ints, a: int, b: int) -> None:
    """Move what is at position a to position b; what is between moves up."""
    u = word[a]
    step = 1 if b > a else -1
    p = a
    while p != b:
        word[p] = word[p + step]
        p += step
    word[b] = u


@compiled
def is_fixed(t: Tables, u: int) -> bool:
    """Whether the author wrote where this unit stands among others that he wrote."""
    if u < 0:
        return False
    if t.solo[u] >= 0:
        return bool(t.fixed[t.solo[u]] > 0)
    return bool(t.fixed[t.back[u]] > 0)


@compiled
def may_pass(t: Tables, word: Ints, a: int, b: int) -> bool:
    """Whether the unit at a may go to b: it changes something, and passes nothing that was
    written before or after it."""
    lo, hi = min(a, b), max(a, b)
    same, written, fixed = True, False, is_fixed(t, word[a])
    for p in range(lo, hi + 1):
        if word[p] != word[a] and word[p] >= 0:
            same = False
        if p != a and fixed and is_fixed(t, word[p]):
            written = True
    return not same and not written


@compiled
def move(t: Tables, word: Ints, a: int, b: int) -> bool:
    """Move the unit at a to b."""
    if word[a] < 0 or not may_pass(t, word, a, b):
        return False
    shift(word, a, b)
    return True


@compiled
def swap(t: Tables, word: Ints, a: int, b: int) -> bool:
    """Swap the units at a and b."""
    if word[a] < 0 or word[b] < 0 or word[a] == word[b]:
        return False
    if not may_pass(t, word, a, b) or not may_pass(t, word, b, a):
        return False
    u = word[a]
    word[a] = word[b]
    word[b] = u
    return True


@compiled
def merge(t: Tables, word: Ints, lo: int, hi: int, a: int, state: Ints) -> bool:
    """Make a pair of the forward or backward alone at a and a partner close to it; the rank's word
    is lo … hi - 1. A backward that takes its weight gradient with it takes the next one."""
    u = word[a]
    if u < 0 or len(t.pair) == 0 or t.solo[u] < 0 or t.solo[u] % 3 == 2:
        return False
    x = t.solo[u]
    stages = len(t.rank) // 3
    step = 1 if draw(state, 2) == 0 else -1
    skip = draw(state, 3)
    b = a + step
    while lo <= b < hi and abs(b - a) <= 12:
        v = word[b]
        y = -1
        if v >= 0 and t.solo[v] >= 0 and t.solo[v] % 3 == 1 - x % 3:
            y = t.solo[v]
        if y >= 0:
            forward, back = (x, y) if x % 3 == 0 else (y, x)
            pair = t.pair[forward // 3 * stages + back // 3]
            if pair >= 0:
                if skip > 0:
                    skip -= 1
                else:
                    word[a] = pair
                    word[b] = NOTHING
                    return t.merged[pair] == 0 or take_weight(t, word, min(a, b), hi, back + 1)
        b += step
    return False


@compiled
def take_weight(t: Tables, word: Ints, a: int, hi: int, w: int) -> bool:
    """Remove the first W of letter w after a."""
    for p in range(a, hi):
        if word[p] == w:
            word[p] = NOTHING
            return True
    return False


@compiled
def split(t: Tables, word: Ints, lo: int, hi: int, a: int, state: Ints) -> bool:
    """Split the pair (or whole backward) at a into what it is made of."""
    u = word[a]
    if u < 0 or t.solo[u] >= 0:
        return False
    x, b = t.forward[u], t.back[u]
    if x >= 0:
        first, second = (x, b) if draw(state, 2) == 0 else (b, x)
        word[a] = first
        if not put(word, lo, hi, a, second):
            return False
    else:
        word[a] = b
    if t.merged[u] > 0:
        after = min(hi - 1, a + draw(state, 12))
        return put(word, lo, hi, max(a, after), b + 1)
    return True


@compiled
def put(word: Ints, lo: int, hi: int, a: int, u: int) -> bool:
    """Put unit u right after position a, using up the nearest free position."""
    for far in range(hi - lo):
        p = a + far
        if p < hi and word[p] == NOTHING:
            word[p] = u
            shift(word, p, min(a + 1, p))
            return True
        p = a - far
        if p >= lo and word[p] == NOTHING:
            word[p] = u
            shift(word, p, a)
            return True
    return False


@compiled
def join(t: Tables, word: Ints, hi: int, a: int) -> bool:
    """Run the backward at a whole, with the next weight gradient of its stage."""
    u = word[a]
    if u < 0 or t.solo[u] < 0 or t.solo[u] % 3 != 1 or t.joint[t.solo[u] // 3] < 0:
        return False
    x = t.solo[u]
    word[a] = t.joint[x // 3]
    return take_weight(t, word, a, hi, x + 1)
