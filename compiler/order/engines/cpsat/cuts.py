"""What the theorems of `bounds/` say of single operations, for CP-SAT to start from: edges that a
memory limit forces, how early and how late an operation can start. And whether the Model has all
orders of the Problem, so that what holds for the one holds for the other.
"""

from dataclasses import dataclass

from stretto.compiler.bounds.best import bound_context
from stretto.compiler.bounds.context import BoundContext
from stretto.compiler.bounds.longest_paths import heads, tails
from stretto.compiler.bounds.memory import memory_edges
from stretto.compiler.bounds.rank_as_stage import ROUNDS, sharpen
from stretto.compiler.bounds.relaxation import OpKey
from stretto.compiler.bounds.symmetry import fifo_pipelines
from stretto.compiler.order.kernels.instance import BACK, Model, W
from stretto.compiler.problem.spec import NONE, Costs, Operation


@dataclass(frozen=True, slots=True)
class Implied:
    """`edges`: places of which the second starts after the first has ended. By place, `before`:
    ticks from the first start of all to its own at least; `behind`: from its own start to the end
    of the step at least."""

    edges: list[tuple[int, int]]
    before: list[int]
    behind: list[int]


def implied(model: Model) -> Implied:
    """What follows for the best orders of the Model. (Weight gradients that may run inside a whole
    backward are left out: which of them is the n-th, an order decides.)"""
    context = bound_context(model.problem.spec)
    place = _places(context, model)
    found = Implied([], [0] * model.size, list(model.duration))
    for edge in memory_edges(context.relaxed, context.fifo):
        for i in range(context.relaxed.classes[edge.head].size - edge.shift):
            ends = place.get((edge.tail, i)), place.get((edge.head, i + edge.shift))
            if ends[0] is not None and ends[1] is not None:
                found.edges.append((ends[0], ends[1]))
    # Ranks as one stage say where a share of a unit lies in it, not where the unit starts.
    units = bool(model.pairs) or any(ticks != NONE for ticks in model.joint)
    if model.problem.spec.minimize == "span" or units:
        head, tail = heads(context.graph), tails(context.graph)
    else:
        head, tail = sharpen(context.graph, [context.relaxed.work], ROUNDS)
    for (c, i), p in place.items():
        found.before[p] = head[c][i]
        found.behind[p] = context.graph.path[c][i] + tail[c][i]
    return found


def _places(context: BoundContext, model: Model) -> dict[OpKey, int]:
    """The place of every operation that the bounds know under the same number."""
    at = {stage: g for g, stage in enumerate(model.stages)}
    number = {model.problem.operations[i]: p for p, i in enumerate(model.operation)}
    found = {}
    for c, (kind, p, s, k, _, many) in enumerate(context.relaxed.classes):
        x = 3 * at[p, s]
        if kind == "W" and (
            model.joint[x // 3] != NONE or model.count[x + W] != model.count[x + BACK]
        ):
            continue
        for i in range(many):
            for one in (kind, "B"):
                operation = Operation(one, p, s, i, k)
                if operation in number and (one == kind or kind == "I"):
                    found[c, i] = number[operation]
    return found


def complete(model: Model) -> bool:
    """Whether no order of the Problem is better than all that the Model knows: micro-batches are
    alike, and the units that it leaves out gain nothing."""
    spec = model.problem.spec
    context = bound_context(spec)
    uneven = any(
        len({(model.duration[p], model.take[p], model.give[p]) for p in places}) > 1
        for x, many in enumerate(model.count)
        if not model.fixed[x]
        for places in [range(model.base[x], model.base[x] + many)]
    )
    if uneven or not all(fifo_pipelines(context.relaxed)) or (spec.slices > 1 and spec.rules):
        return False
    if spec.exceptional_pairs or any(partner != NONE for partner in model.partner):
        return False
    split = any(model.count[x] for x in range(W, len(model.count), 3)) or spec.split_backward
    units = [pair for pair in spec.pairs if pair.kind in spec.overlap]
    costs = Costs(spec)
    for g, (p, s) in enumerate(model.stages):
        stage = spec.pipelines[p].stages[s]
        if not split or not model.count[3 * g + BACK]:
            continue
        gains = {
            pair.kind
            for pair in units
            if pair.backward == (p, s)
            and pair.ticks < costs.of(Operation("F", *pair.forward, 0)) + getattr(stage, pair.kind)
        }
        if "I" in gains and "B" in spec.overlap:
            return False  # units are made of whole backwards
        if model.joint[g] == NONE and ("B" in gains or stage.B < stage.I + stage.W):
            return False
    return split or "I" not in spec.overlap or "B" in spec.overlap
