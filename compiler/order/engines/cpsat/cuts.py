"""What the theorems of `bounds/` say of single operations, for CP-SAT to start from: edges that a
memory limit forces, how early and how late an operation can start. And whether the SearchInstance
has all orders of the Problem, so that what holds for the one holds for the other."""

from dataclasses import dataclass

from stretto.compiler.bounds.best import bound_context
from stretto.compiler.bounds.context import BoundContext
from stretto.compiler.bounds.longest_paths import heads, tails
from stretto.compiler.bounds.memory import memory_edges
from stretto.compiler.bounds.rank_as_stage import ROUNDS, sharpen
from stretto.compiler.bounds.relaxation import OpKey
from stretto.compiler.bounds.symmetry import fifo_pipelines
from stretto.compiler.order.kernels.instance import SearchInstance
from stretto.compiler.order.kernels.op_classes import (
    BACK,
    W,
    backward_of,
    forward_of,
    stage_of,
    weights,
)
from stretto.compiler.problem.spec import NONE, Costs, Operation


@dataclass(frozen=True, slots=True)
class Cuts:
    """`edges`: op indices of which the second starts after the first has ended. By op index,
    `before`: ticks from the first start of all to its own at least; `behind`: from its own start to
    the end of the step at least."""

    edges: list[tuple[int, int]]
    before: list[int]
    behind: list[int]


def cuts_of(instance: SearchInstance) -> Cuts:
    """What follows for the best orders of the SearchInstance. (Weight gradients that may run inside
    a whole backward are left out: which of them is the n-th, an order decides.)"""
    context = bound_context(instance.problem.spec)
    op_index = _op_indices(context, instance)
    found = Cuts([], [0] * instance.size, list(instance.duration))
    for edge in memory_edges(context.relaxed, context.fifo):
        for i in range(context.relaxed.classes[edge.head].size - edge.shift):
            ends = op_index.get((edge.tail, i)), op_index.get((edge.head, i + edge.shift))
            if ends[0] is not None and ends[1] is not None:
                found.edges.append((ends[0], ends[1]))
    # Ranks as one stage say where a share of a unit lies in it, not where the unit starts.
    units = bool(instance.pairs) or any(ticks != NONE for ticks in instance.full_backward)
    if instance.problem.spec.minimize == "span" or units:
        head, tail = heads(context.graph), tails(context.graph)
    else:
        head, tail = sharpen(context.graph, [context.relaxed.work], ROUNDS)
    for (c, i), p in op_index.items():
        found.before[p] = head[c][i]
        found.behind[p] = context.graph.path[c][i] + tail[c][i]
    return found


def _op_indices(context: BoundContext, instance: SearchInstance) -> dict[OpKey, int]:
    """The op index of every operation that the bounds know under the same number."""
    at = {stage: g for g, stage in enumerate(instance.stages)}
    number = {instance.problem.operations[i]: p for p, i in enumerate(instance.operation)}
    found = {}
    for c, (kind, p, s, k, _, many) in enumerate(context.relaxed.classes):
        x = forward_of(at[p, s])
        if kind == "W" and (
            instance.full_backward[stage_of(x)] != NONE
            or instance.count[x + W] != instance.count[x + BACK]
        ):
            continue
        for i in range(many):
            for one in (kind, "B"):
                operation = Operation(one, p, s, i, k)
                if operation in number and (one == kind or kind == "I"):
                    found[c, i] = number[operation]
    return found


def covers_problem(instance: SearchInstance) -> bool:
    """Whether no order of the Problem is better than all that the SearchInstance knows:
    micro-batches are alike, and the units that it leaves out gain nothing."""
    spec = instance.problem.spec
    context = bound_context(spec)
    uneven = any(
        len({(instance.duration[p], instance.alloc[p], instance.free[p]) for p in ops}) > 1
        for x, many in enumerate(instance.count)
        if not instance.fixed[x]
        for ops in [range(instance.base[x], instance.base[x] + many)]
    )
    if uneven or not all(fifo_pipelines(context.relaxed)) or (spec.slices > 1 and spec.rules):
        return False
    if spec.exceptional_pairs or any(partner != NONE for partner in instance.partner):
        return False
    split = any(instance.count[x] for x in weights(len(instance.count))) or spec.split_backward
    units = [pair for pair in spec.pairs if pair.kind in spec.overlap]
    costs = Costs(spec)
    for g, (p, s) in enumerate(instance.stages):
        stage = spec.pipelines[p].stages[s]
        if not split or not instance.count[backward_of(g)]:
            continue
        gains = {
            pair.kind
            for pair in units
            if pair.backward == (p, s)
            and pair.ticks < costs.of(Operation("F", *pair.forward, 0)) + getattr(stage, pair.kind)
        }
        if "I" in gains and "B" in spec.overlap:
            return False  # units are made of full backwards
        if instance.full_backward[g] == NONE and ("B" in gains or stage.B < stage.I + stage.W):
            return False
    return split or "I" not in spec.overlap or "B" in spec.overlap
