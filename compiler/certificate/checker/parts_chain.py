"""B12, proven at the top of `compiler/bounds/parts/rank_as_chain.py`: a rank counts as if it had
one stage. Where all its trained stages are cut alike, the m-th that starts of each kind and part (a
*link*), of whichever stage, comes after the m-th of the link before, and the m-th first part of a
forward after what makes room for it."""

from stretto.compiler.certificate.checker.parts_graph import PartsOrderGraph, PartTicks
from stretto.compiler.certificate.checker.parts_instance import PartOp

LinkRows = list[list[int]]
"""Heads or tails: ticks by link and m."""


class LinkChain:
    """One rank as one stage. By link: its operations `own`, one row for each stage by micro-batch,
    its `stream`, its least `ticks`, and `needs`, the links before it. `rooms`: links whose
    (m - K)-th has ended before the m-th first part of a forward starts, with K."""

    def __init__(self, graph: PartsOrderGraph, rank: int, stages: list[tuple[int, int]]):
        of = graph.instance
        p, s = stages[0]
        types = [one for one in graph.types if one[1:3] == (p, s)]
        links = [(kind, part) for kind, _, _, part in types]
        number = {link: k for k, link in enumerate(links)}
        many = {(q, t): range(of.pipelines[q]["microbatches"]) for q, t in stages}
        self.own: list[list[list[PartOp]]] = [
            [[(kind, q, t, m, part) for m in many[q, t]] for q, t in stages] for kind, part in links
        ]
        self.many = sum(len(row) for row in self.own[0])
        self.stream = [of.lane(one)[1] for one in types]
        self.ticks = [min(graph.ticks[o] for row in rows for o in row) for rows in self.own]
        self.needs = [
            [number[b[0], b[3]] for b, _ in graph.needs[one] if b[1:3] == (p, s)] for one in types
        ]
        self.rooms: list[tuple[int, int]] = []
        limit = of.limits[rank]
        if limit is not None:
            self._make_rooms(graph, stages, number, limit)

    def _make_rooms(
        self,
        graph: PartsOrderGraph,
        stages: list[tuple[int, int]],
        number: dict[tuple[str, int], int],
        limit: int,
    ) -> None:
        own = dict.fromkeys(stages, 0)
        held = {(stage, k): 0 for stage in stages for k in number.values()}
        for grains, taken, freed in graph.instance.holdings():
            stage = taken[1:3]
            if stage in own and taken[0] == "F" and not taken[3]:
                own[stage] += grains
                for kind, _, _, part in freed:
                    held[stage, number[kind, part]] += grains
        new = min(own.values()) if self.ticks[0] else 0  # what takes no time need not be seen
        for k in number.values():
            least = min(held[stage, k] for stage in stages)
            if least:
                room = min(limit // least, (limit - new) // least + 1)
                if room > 0:
                    self.rooms.append((k, room))

    def heads(self, heads: PartTicks) -> LinkRows:
        """The least starts, from the heads of the operations."""
        rows = [sorted(heads[o] for row in own for o in row) for own in self.own]
        for m in range(self.many):
            for k, row in enumerate(rows):
                before = [rows[j][m] + self.ticks[j] for j in self.needs[k]]
                if m:
                    before.append(row[m - 1] + self.ticks[k])
                if not k:
                    before += [rows[j][m - n] + self.ticks[j] for j, n in self.rooms if m >= n]
                row[m] = max([row[m], *before])
        return rows

    def tails(self, tails: PartTicks) -> LinkRows:
        """The least times from an end to the end of the step, from the tails of the operations."""
        rows = [sorted((tails[o] for row in own for o in row), reverse=True) for own in self.own]
        for m in reversed(range(self.many)):
            for k in reversed(range(len(rows))):
                row = rows[k]
                behind = [
                    rows[0][m + n] + self.ticks[0]
                    for j, n in self.rooms
                    if j == k and m + n < self.many
                ]
                if m + 1 < self.many:
                    behind.append(row[m + 1] + self.ticks[k])
                row[m] = max([row[m], *behind])
                for j in self.needs[k]:
                    rows[j][m] = max(rows[j][m], row[m] + self.ticks[k])
        return rows


def link_chains(graph: PartsOrderGraph) -> dict[int, LinkChain]:
    """The ranks that can be counted so: with two trained stages or more, all cut alike."""
    of = graph.instance
    stages: dict[int, list[tuple[int, int]]] = {}
    for p, line in enumerate(of.pipelines):
        for s, stage in enumerate(line["stages"]):
            if line["microbatches"] and not line["forward_only"]:
                stages.setdefault(stage["rank"], []).append((p, s))
    found = {}
    for rank, own in stages.items():
        cuts = {tuple(part[0] for part in of.pipelines[p]["stages"][s]["parts"]) for p, s in own}
        if len(own) > 1 and len(cuts) == 1:
            found[rank] = LinkChain(graph, rank, own)
    return found
