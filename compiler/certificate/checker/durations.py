"""How long operations take in a relaxation of the instance: a backward that may be split is an I
and a W of the least ticks that either way takes, and an operation that may overlap with others has
its result after the least ticks that either way takes (B6 of `docs/bounds.md`)."""

from itertools import product
from typing import Any, NamedTuple

from stretto.compiler.certificate.checker.instance import Instance, OpType, demand


class MayOverlap(NamedTuple):
    """Two types that may be one overlapped unit of so many ticks; `whole`: with the whole backward
    in it."""

    forward: OpType
    backward: OpType
    whole: bool
    ticks: int


class Durations:
    """By type of operation: `count`, how many there are; `alone`, the least ticks by themselves;
    `path`, the least ticks from the start to the result."""

    def __init__(self, instance: Instance):
        self.instance = instance
        self.count: dict[OpType, int] = {}
        for p, line in enumerate(instance.pipelines):
            kinds = "F" if line["forward_only"] else "FIW" if instance.split else "FB"
            for s, k in product(range(len(line["stages"])), instance.slices):
                for kind in kinds:
                    self.count[kind, p, s, k] = line["microbatches"]
        self.alone = {s: self._least(s) for s in self.count}
        self.path = {s: self._result(s) for s in self.count}

    def backward(self, f: OpType) -> OpType:
        """The backward of a forward, or the first half of it."""
        return ("I" if self.instance.split else "B", *f[1:])

    def units(self, one: OpType) -> list[MayOverlap]:
        """The overlapped units that it may be in."""
        listed: list[Any] = [(f, kind, b, t) for (f, kind, b), t in self.instance.pairs.items()]
        listed += [(f[1:3], b[0], b[1:3], t) for (f, b), t in self.instance.rare.items()]
        found = []
        self.instance.spend(len(listed) * len(self.instance.slices) ** 2)
        for (p, s), kind, (q, t), ticks in listed:
            for j, k in product(self.instance.slices, self.instance.slices):
                f, b = ("F", p, s, j), self.backward(("F", q, t, k))
                if not {f, b} <= self.count.keys():
                    continue
                if one in (f, b) or (kind == "B" and one == ("W", q, t, k)):
                    found.append(MayOverlap(f, b, kind == "B", ticks))
        return found

    def _least(self, one: OpType) -> int:
        kind, p, s, k = one
        least = []
        self.instance.spend(self.count[one] if self.instance.exceptions else 1)
        for m in range(self.count[one]) if self.instance.exceptions else [0]:
            b, i, w = (self.instance.ticks((other, p, s, m, k)) for other in "BIW")
            halves = {"I": min(i, b), "W": min(w, b - min(i, b))}
            least.append(halves.get(kind, self.instance.ticks((kind, p, s, m, k))))
        return min(least, default=0)

    def _result(self, one: OpType) -> int:
        own, units = self.alone[one], self.units(one)
        if one[0] != "W":
            return min([own, *(unit.ticks for unit in units)])
        first = self._result(("I", *one[1:]))
        return min([own, *(max(0, unit.ticks - first) for unit in units)])

    def shared(self, listed: list[Any]) -> dict[OpType, int]:
        """For how long operations keep others off their rank, if the ones that may overlap each
        have a share ([type, ticks] of the evidence), and the shares of two that may be one unit
        fit into it. Raises `Refuted` where they do not."""
        given = {(s[0], s[1], s[2], s[3]): ticks for s, ticks in listed}
        for one, ticks in given.items():
            demand(one in self.count, f"the evidence gives a share to {one}, which nothing is")
            right = type(ticks) is int and ticks >= 0
            demand(right, f"the evidence's share of {one} is {ticks!r}, not whole ticks, 0 or more")
        shares = {s: min(ticks, given.get(s, ticks)) for s, ticks in self.alone.items()}
        for one in self.count:
            for f, b, whole, ticks in self.units(one):
                weight = ("W", *b[1:])
                rest = shares[weight] if whole and b[0] == "I" else 0
                total, share = shares[f] + shares[b] + rest, shares[b]
                unit = f"{f} and {b} may be one unit of {ticks} ticks"
                demand(total <= ticks, f"{unit}, and their shares in the evidence are {total}")
                inside = f"{b} may end after {self.path[b]} ticks"
                demand(share <= self.path[b], f"{inside}, and its share is {share}")
                fits = not rest or self.path[b] + rest <= ticks
                demand(fits, f"{unit}, {inside}, and the share of {weight} behind it is {rest}")
        return shares
