"""A clock of whole operations that knows nothing of instructions and messages."""

from stretto.compiler.problem.spec import Costs, Operation, Spec
from tests.support import specs

Times = dict[Operation, tuple[int, int]]
"""Start and end, in ticks."""


def longest_paths(spec: Spec) -> Times:
    """When everything starts and ends, if every message leaves the moment its result is made: each
    unit after the one before it and after what it needs, over and over until nothing moves."""
    cut = {o[1:5] for us in spec.written for u in us for o in u.operations if o.kind == "I"}
    rank = {o: r for r, us in enumerate(spec.written) for u in us for o in u.operations}
    delay = {(t.source, t.target): t.ticks for t in spec.transfers}
    costs, times = Costs(spec), dict[Operation, tuple[int, int]]()
    moved = True
    while moved:
        moved = False
        for units in spec.written:
            start = 0
            for unit in units:
                for o in unit.operations:
                    for x in specs.needs(spec, o, cut):
                        if x in times:
                            lag = delay.get((rank[x], rank[o]), 0)
                            start = max(start, times[x][1] + lag)
                        else:
                            start = max(start, 0)
                end = start + costs.unit(unit.operations)
                for o in unit.operations:
                    if times.get(o) != (start, end):
                        times[o], moved = (start, end), True
                start = end
    return times
