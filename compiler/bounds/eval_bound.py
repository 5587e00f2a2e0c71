"""A lower bound for the forwards of a step alone, as `eval` runs them."""

from msgspec.structs import replace

from stretto.compiler.bounds.bound import Bound, bound
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Spec


def forwards_bound(spec: Spec) -> Bound:
    """The bound of the schedule without its backwards, and what follows them. Its rules are left
    out, since they may name backwards: with fewer constraints a bound is never too high."""
    lists = [
        tuple(
            unit._replace(operations=unit.operations[:1])
            for unit in units
            if unit.operations[0].kind == "F"
        )
        for units in spec.written
    ]
    pipelines = tuple(replace(pipeline, forward_only=True) for pipeline in spec.pipelines)
    alone = replace(spec, pipelines=pipelines, rules=(), written=tuple(lists), reduce_gradients=())
    return bound(expand(alone))
