"""B6: what overlapped units can save.

A unit of an F and a B (or I) takes E from its common start
to its common end, the two after one another take F + B.

Paths. Both results are there when the unit ends, so the time from the start of an operation to
its result is at least min(d, E); from the start of an I to the end of its W, where both are in
the unit as a B, at least min(I + W, E). `least_paths` gives each operation such a share, an I
first and its W behind it: virtual intervals inside the real ones, which keep every edge and the
order in each op class.

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

from stretto.compiler.bounds.relaxation import Relaxation, TickTable


class OverlapPair(NamedTuple):
    """The least ticks that operations of these classes take as one unit: `forward`, `backward` (an
    I or B), and the `weight` gradient where that is in the unit."""

    forward: int
    backward: int
    weight: int | None
    ticks: int

    @property
    def classes(self) -> list[int]:
        """The op classes in the unit."""
        return [c for c in (self.forward, self.backward, self.weight) if c is not None]


def overlap_pairs(relaxed: Relaxation) -> list[OverlapPair]:
    """All units that are quicker than their operations one after the other."""
    by_stage: dict[tuple[str, int, int], list[int]] = {}
    for (kind, p, s, _), c in relaxed.index.items():
        by_stage.setdefault((kind, p, s), []).append(c)
    listed = [(p.forward, p.kind, p.backward, p.ticks) for p in relaxed.spec.pairs]
    listed += [
        ((f.pipeline, f.stage), b.kind, (b.pipeline, b.stage), ticks)
        for f, b, ticks in relaxed.spec.exceptional_pairs
    ]
    found: dict[tuple[int, int, int | None], int] = {}
    for (p, s), kind, (q, t), ticks in listed:
        for f in by_stage.get(("F", p, s), ()):
            for b in by_stage.get(("B", q, t), by_stage.get(("I", q, t), ())):
                weight = relaxed.index.get(("W", q, t, relaxed.classes[b].slice))
                key = (f, b, weight if kind == "B" else None)
                alone = sum(max(relaxed.work[c]) for c in key if c is not None)
                if ticks < alone:
                    found[key] = min(ticks, found.get(key, ticks))
    return [OverlapPair(*key, ticks) for key, ticks in found.items()]


def least_paths(relaxed: Relaxation, found: list[OverlapPair]) -> TickTable:
    """For every operation the least ticks from its (virtual) start to its result."""
    path = list(relaxed.work)
    least: dict[int, int] = {}
    weights: dict[int, list[OverlapPair]] = {}
    for pair in found:
        for c in (pair.forward, pair.backward):
            least[c] = min(pair.ticks, least.get(c, pair.ticks))
        if pair.weight is not None:
            weights.setdefault(pair.weight, []).append(pair)
    for c, ticks in sorted(least.items()):
        path[c] = [min(one, ticks) for one in path[c]]
    for c, whole in sorted(weights.items()):
        ticks = min(p.ticks for p in whole)
        rest = [max(0, ticks - first) for first in path[whole[0].backward]]
        path[c] = [min(one, r) for one, r in zip(path[c], rest, strict=True)]
    return path


def share_choices(
    relaxed: Relaxation, found: list[OverlapPair], path: TickTable
) -> list[dict[int, list[int]]]:
    """The choices of shares: for the op classes that differ from `Relaxation.work`, their
    ticks."""
    if not found:
        return [{}]
    least = {c: min(relaxed.work[c]) for pair in found for c in pair.classes}
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
    path: TickTable,
    f: dict[int, int],
    b: dict[int, int],
) -> dict[int, list[int]]:
    """The shares as ticks of op classes: a backward's is split over its I and W."""
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
