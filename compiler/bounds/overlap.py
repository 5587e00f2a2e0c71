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

from stretto.compiler.bounds.relaxation import Model


class Pair(NamedTuple):
    """The least ticks that two strands take as one unit: `forward`, and `backward` (an I or B),
    with its `weight` strand where that is in the unit."""

    forward: int
    backward: int
    weight: int | None
    ticks: int


def pairs(model: Model) -> list[Pair]:
    """All units that are quicker than their operations one after the other."""
    table: dict[tuple[str, int, int], list[int]] = {}
    for c, strand in enumerate(model.strands):
        table.setdefault((strand.kind, strand.pipeline, strand.stage), []).append(c)
    weights = {
        (s.pipeline, s.stage, s.slice): c for c, s in enumerate(model.strands) if s.kind == "W"
    }
    listed = [(p.forward, p.kind, p.backward, p.ticks) for p in model.spec.pairs]
    listed += [
        ((f.pipeline, f.stage), b.kind, (b.pipeline, b.stage), ticks)
        for f, b, ticks in model.spec.exceptional_pairs
    ]
    found: dict[tuple[int, int, int | None], int] = {}
    for (p, s), kind, (q, t), ticks in listed:
        for f in table.get(("F", p, s), ()):
            for b in table.get(("B", q, t), table.get(("I", q, t), ())):
                strand = model.strands[b]
                weight = weights.get(strand[1:4]) if kind == "B" else None
                alone = max(model.work[f]) + max(model.work[b])
                alone += max(model.work[weight]) if weight is not None else 0
                if ticks < alone:
                    key = (f, b, weight)
                    found[key] = min(ticks, found.get(key, ticks))
    return [Pair(*key, ticks) for key, ticks in found.items()]


def paths(model: Model, found: list[Pair]) -> list[list[int]]:
    """For every operation the least ticks from its (virtual) start to its result."""
    path = list(model.work)
    for strand in sorted({c for pair in found for c in (pair.forward, pair.backward)}):
        ticks = min(p.ticks for p in found if strand in (p.forward, p.backward))
        path[strand] = [min(one, ticks) for one in path[strand]]
    for strand in sorted({p.weight for p in found if p.weight is not None}):
        whole = [p for p in found if p.weight == strand]
        ticks = min(p.ticks for p in whole)
        rest = [max(0, ticks - first) for first in path[whole[0].backward]]
        path[strand] = [min(one, r) for one, r in zip(path[strand], rest, strict=True)]
    return path


def shares(model: Model, found: list[Pair], path: list[list[int]]) -> list[dict[int, list[int]]]:
    """The choices of shares: for the strands that differ from `Model.work`, their ticks."""
    if not found:
        return [{}]
    least = {
        c: min(model.work[c])
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
        choices.append(_choice(model, found, path, f, b))
    return choices


def _choice(
    model: Model, found: list[Pair], path: list[list[int]], f: dict[int, int], b: dict[int, int]
) -> dict[int, list[int]]:
    """The shares as ticks of strands: a backward's is split over its I and W."""
    ticks = dict(f)
    for pair in found:
        first = min(b[pair.backward], min(path[pair.backward]))
        ticks[pair.backward] = first
        if pair.weight is not None:
            rest = min(b[pair.backward] - first, min(model.work[pair.weight]))
            ticks[pair.weight] = min(
                rest, pair.ticks - max(path[pair.backward]), ticks.get(pair.weight, rest)
            )
    return {c: [t] * model.strands[c].many for c, t in ticks.items()}
