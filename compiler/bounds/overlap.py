"""B6. What overlapped units can save. A unit of an F and a B (or I) takes E from its common start
to its common end, the two after one another take F + B.

Paths. Both results are there when the unit ends, so the time from the start of an operation to
its result is at least min(d, E); from the start of an I to the end of its W, where both are in
the unit as a B, at least min(I + W, E). `paths` gives each operation such a share, an I first and
its W behind it: virtual intervals inside the real ones, which keep every edge and the order in
each strand.

Work. Give each F a share f <= F and each B a share b <= B with f + b <= E for all that may be one
unit. Then every order leaves room on the rank for all shares one at a time, each between the
start and the end of its operation: outside units trivially, inside a unit first the I's share,
then F's, then W's, which ends with the unit. What is proved of one rank with shares in place of
durations holds for the rank. Two choices of shares are tried: what can be saved is taken from
the forwards, or from the backwards.

Number. A unit needs an F and a B, so a rank saves at most min(#F, #B) times the largest
F + B − E; `window` uses this.
"""

from typing import NamedTuple

from stretto.compiler.bounds.relaxation import Relaxation


class OverlapPair(NamedTuple):
    """The least ticks that two strands take as one unit: `forward`, and `backward` (an I or B),
    with its `weight` strand where that is in the unit."""

    forward: int
    backward: int
    weight: int | None
    ticks: int


def overlap_pairs(relaxed: Relaxation) -> list[OverlapPair]:
    """All units that are quicker than their operations one after the other."""
    table: dict[tuple[str, int, int], list[int]] = {}
    for c, op_class in enumerate(relaxed.classes):
        table.setdefault((op_class.kind, op_class.pipeline, op_class.stage), []).append(c)
    weights = {
        (s.pipeline, s.stage, s.slice): c for c, s in enumerate(relaxed.classes) if s.kind == "W"
    }
    listed = [(p.forward, p.kind, p.backward, p.ticks) for p in relaxed.spec.pairs]
    listed += [
        ((f.pipeline, f.stage), b.kind, (b.pipeline, b.stage), ticks)
        for f, b, ticks in relaxed.spec.exceptional_pairs
    ]
    found: dict[tuple[int, int, int | None], int] = {}
    for (p, s), kind, (q, t), ticks in listed:
        for f in table.get(("F", p, s), ()):
            for b in table.get(("B", q, t), table.get(("I", q, t), ())):
                op_class = relaxed.classes[b]
                weight = weights.get(op_class[1:4]) if kind == "B" else None
                alone = max(relaxed.work[f]) + max(relaxed.work[b])
                alone += max(relaxed.work[weight]) if weight is not None else 0
                if ticks < alone:
                    key = (f, b, weight)
                    found[key] = min(ticks, found.get(key, ticks))
    return [OverlapPair(*key, ticks) for key, ticks in found.items()]


def least_paths(relaxed: Relaxation, found: list[OverlapPair]) -> list[list[int]]:
    """For every operation the least ticks from its (virtual) start to its result."""
    path = list(relaxed.work)
    for op_class in sorted({c for pair in found for c in (pair.forward, pair.backward)}):
        ticks = min(p.ticks for p in found if op_class in (p.forward, p.backward))
        path[op_class] = [min(one, ticks) for one in path[op_class]]
    for op_class in sorted({p.weight for p in found if p.weight is not None}):
        whole = [p for p in found if p.weight == op_class]
        ticks = min(p.ticks for p in whole)
        rest = [max(0, ticks - first) for first in path[whole[0].backward]]
        path[op_class] = [min(one, r) for one, r in zip(path[op_class], rest, strict=True)]
    return path


def share_choices(
    relaxed: Relaxation, found: list[OverlapPair], path: list[list[int]]
) -> list[dict[int, list[int]]]:
    """The choices of shares: for the strands that differ from `Model.work`, their ticks."""
    if not found:
        return [{}]
    least = {
        c: min(relaxed.work[c])
        for pair in found
        for c in (pair.forward, pair.backward, pair.weight)
        if c is not None
    }
    forward = {p.forward: least[p.forward] for p in found}
    backward = {p.backward: least[p.backward] for p in found}
    for p in found:
        if p.weight is not None:
            backward[p.backward] = least[p.backward] + least[p.weight]
    choices = []
    for forwards_give in (True, False):
        f, b = dict(forward), dict(backward)
        for p in found:
            if forwards_give:
                f[p.forward] = min(f[p.forward], max(0, p.ticks - backward[p.backward]))
            else:
                b[p.backward] = min(b[p.backward], max(0, p.ticks - forward[p.forward]))
        for p in found:
            if forwards_give:
                b[p.backward] = min(b[p.backward], p.ticks - f[p.forward])
            else:
                f[p.forward] = min(f[p.forward], p.ticks - b[p.backward])
        choices.append(_choice(relaxed, found, path, f, b))
    return choices


def _choice(
    relaxed: Relaxation,
    found: list[OverlapPair],
    path: list[list[int]],
    f: dict[int, int],
    b: dict[int, int],
) -> dict[int, list[int]]:
    """The shares as ticks of strands: a backward's is split over its I and W."""
    ticks = dict(f)
    for pair in found:
        first = min(b[pair.backward], min(path[pair.backward]))
        ticks[pair.backward] = first
        if pair.weight is not None:
            rest = min(b[pair.backward] - first, min(relaxed.work[pair.weight]))
            ticks[pair.weight] = min(
                rest, pair.ticks - max(path[pair.backward]), ticks.get(pair.weight, rest)
            )
    return {c: [t] * relaxed.classes[c].size for c, t in ticks.items()}
