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

from stretto.compiler.bounds.relaxation import ClassEdge, Relaxation


def fifo_pipelines(relaxed: Relaxation) -> list[bool]:
    """For every pipeline whether B0 holds for it; pipelines between which data flows stand or
    fall together."""
    group = list(range(len(relaxed.spec.pipelines)))

    def find(p: int) -> int:
        while group[p] != p:
            p = group[p]
        return p

    def pipeline(op_class: int) -> int:
        return relaxed.classes[op_class].pipeline

    for edge in relaxed.edges:
        group[find(pipeline(edge.tail))] = find(pipeline(edge.head))
    unlike = {
        find(op_class.pipeline)
        for op_class, work in zip(relaxed.classes, relaxed.work, strict=True)
        if len(set(work)) > 1
    }
    unlike |= {find(pipeline(op_class)) for rule in relaxed.rules for op_class, _ in rule}
    unlike |= {find(pipeline(op_class)) for op_class in _out_of_turn(relaxed)}
    return [find(p) not in unlike for p in range(len(group))]


def _out_of_turn(relaxed: Relaxation) -> set[int]:
    """The strands of which the author fixed a part, or fixed them in another order."""
    turn: dict[int, list[int]] = {}
    for groups in relaxed.turns:
        for group in groups:
            for op_class, microbatch in group:
                turn.setdefault(op_class, []).append(microbatch)
    return {s for s, order in turn.items() if order != list(range(relaxed.classes[s].size))}


def fifo_edges(relaxed: Relaxation, fifo: list[bool]) -> list[ClassEdge]:
    """The edges of B2, for the pipelines of which B0 `holds`."""
    return [
        ClassEdge(c, c, 0, 1)
        for c, op_class in enumerate(relaxed.classes)
        if fifo[op_class.pipeline]
    ]
