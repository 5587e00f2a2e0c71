"""B0. If the micro-batches of a pipeline are alike (the same durations, rules that hold for all of
them at one distance, no order that names one out of turn), some best order runs every strand in
the order of the index.

Proof. Rename: call the i-th operation that runs of each strand "micro-batch i". Say an edge leads
from strand a to strand b with shift d. When the i-th of b starts, i + 1 of b have started; at
least i + 1 − d of them are micro-batches from d on, so at least as many of a have ended: the
(i − d)-th of a has. Durations are the same, memory depends on counts only, and a part of an order
that names whole strands in turn already has these names. ∎

B2. Hence edges from micro-batch i to i + 1 of every strand may be added before longest paths are
taken. (A W that runs inside an overlapped unit, or a full B, has ended when its I has; among
virtual intervals inside the unit the same order holds, see `pairs`.)
"""

from stretto.compiler.bounds.relaxation import Edge, Model


def alike(model: Model) -> list[bool]:
    """For every pipeline whether B0 holds for it; pipelines between which data flows stand or
    fall together."""
    group = list(range(len(model.spec.pipelines)))

    def find(p: int) -> int:
        while group[p] != p:
            p = group[p]
        return p

    def pipeline(strand: int) -> int:
        return model.strands[strand].pipeline

    for edge in model.edges:
        group[find(pipeline(edge.tail))] = find(pipeline(edge.head))
    unlike = {
        find(strand.pipeline)
        for strand, work in zip(model.strands, model.work, strict=True)
        if len(set(work)) > 1
    }
    unlike |= {find(pipeline(strand)) for rule in model.rules for strand, _ in rule}
    unlike |= {find(pipeline(strand)) for strand in _out_of_turn(model)}
    return [find(p) not in unlike for p in range(len(group))]


def _out_of_turn(model: Model) -> set[int]:
    """The strands of which the author fixed a part, or fixed them in another order."""
    turn: dict[int, list[int]] = {}
    for groups in model.turns:
        for group in groups:
            for strand, microbatch in group:
                turn.setdefault(strand, []).append(microbatch)
    return {s for s, order in turn.items() if order != list(range(model.strands[s].many))}


def fifo(model: Model, holds: list[bool]) -> list[Edge]:
    """The edges of B2, for the pipelines of which B0 `holds`."""
    return [Edge(c, c, 0, 1) for c, strand in enumerate(model.strands) if holds[strand.pipeline]]
