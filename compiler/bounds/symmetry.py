"""B0 and B2: micro-batches that are alike may run first in, first out.

B0. If the micro-batches of a pipeline are alike (the same durations, rules that hold for all of
them at one distance, no order that names one out of turn), some best order runs every op class
in the order of the index.

Proof. Rename: call the i-th operation that runs of each op class "micro-batch i". Say an edge
leads from class a to class b with shift d. When the i-th of b starts, i + 1 of b have started; at
least i + 1 − d of them are micro-batches from d on, so at least as many of a have ended: the
(i − d)-th of a has. Durations are the same, memory depends on counts only, and a part of an order
that names whole classes in turn already has these names. ∎

B2. Hence edges from micro-batch i to i + 1 of every class may be added before longest paths are
taken. (A W that runs inside an overlapped unit, or a full B, has ended when its I has; among
virtual intervals inside the unit the same order holds, see `overlap`.)
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

    def pipeline(c: int) -> int:
        return relaxed.classes[c].pipeline

    for edge in relaxed.edges:
        group[find(pipeline(edge.tail))] = find(pipeline(edge.head))
    unlike = {find(pipeline(c)) for c, work in enumerate(relaxed.work) if len(set(work)) > 1}
    unlike |= {find(pipeline(c)) for rule in relaxed.rules for c, _ in rule}
    unlike |= {find(pipeline(c)) for c in _out_of_turn(relaxed)}
    return [find(p) not in unlike for p in range(len(group))]


def _out_of_turn(relaxed: Relaxation) -> set[int]:
    """The op classes of which the author fixed a part, or fixed them in another order."""
    turn: dict[int, list[int]] = {}
    for units in relaxed.fixed:
        for unit in units:
            for c, microbatch in unit:
                turn.setdefault(c, []).append(microbatch)
    return {c for c, order in turn.items() if order != list(range(relaxed.classes[c].size))}


def fifo_edges(relaxed: Relaxation, fifo: list[bool]) -> list[ClassEdge]:
    """The edges of B2. `fifo`: for which pipelines B0 holds."""
    return [
        ClassEdge(c, c, 0, 1)
        for c, op_class in enumerate(relaxed.classes)
        if fifo[op_class.pipeline]
    ]
