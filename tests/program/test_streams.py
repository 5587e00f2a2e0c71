"""Programs of stages that are cut into parts, under any timing: random Specs, random legal orders,
streams that run at random speeds. A simulator that shares nothing with the clock sees that every
computation finds its data, that no slot is lost, and that limits hold."""

from random import Random

import pytest
from msgspec.structs import replace

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.order import Order
from stretto.compiler.order.earliest_start import Earliest, earliest
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Rule, Stage, Tie, TiedPlace
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicate, forwards
from stretto.compiler.program.evaluation import evaluated
from stretto.compiler.program.issue import issue
from stretto.compiler.program.program import Await, Compute, Operation, Program, ProgramName
from stretto.compiler.program.ties import with_ties
from stretto.compiler.program.timeline import time
from stretto.compiler.proof.prove import prove, prove_all
from tests.support.parts import parts_spec
from tests.support.parts_orders import limited, order_of, random_order, random_sequence
from tests.support.stream_runs import Run

SEEDS = [*range(60), *(pytest.param(seed, marks=pytest.mark.full) for seed in range(60, 400))]


@pytest.mark.parametrize("seed", SEEDS)
def test_any_timing_keeps_data_slots_and_limits(seed: int) -> None:
    rng = Random(seed)
    order = random_order(rng)
    slots = rng.choice((None, None, 1, 2))
    free = claims(communicate(order, slots)).activations
    order = limited(order, free)
    program = communicate(order, slots)
    planned = claims(program)
    assert planned.activations == free
    if slots is None and not program.spec.unshard_weights:
        _keeps_times(program, earliest(order))
    for _ in range(6):
        peaks = Run(program, order.problem, rng).run()
        assert all(a <= b for a, b in zip(peaks, free, strict=True)), "more than planned is held"
    evaluation = forwards(order, slots)
    most = claims(evaluation).activations
    assert all(a <= b for a, b in zip(most, free, strict=True)), "an evaluation breaks the limit"
    holdings = evaluated(order, order.problem, issue(order, earliest(order))).problem
    for _ in range(3):
        peaks = Run(evaluation, holdings, rng).run()
        assert all(a <= b for a, b in zip(peaks, most, strict=True)), "more than planned is held"
    for one in (program, evaluation):
        _needs_its_awaits(one)
    programs: dict[ProgramName, Program] = {"train": program, "eval": evaluation}
    prove_all(programs, {name: claims(one) for name, one in programs.items()})


def _keeps_times(program: Program, times: Earliest) -> None:
    """No wait that was added moves a planned time."""
    streams = len(program.spec.streams)
    timeline = time(program)
    for rank, row in enumerate(timeline.ranks):
        for stream in range(streams):
            starts = [timed.start for timed in row if timed.stream == stream]
            assert starts == times.start[rank * streams + stream]


def _needs_its_awaits(program: Program) -> None:
    """None is there of which its stream knows already, and none whose end others imply."""
    for row, streams in zip(program.ranks, program.streams, strict=True):
        known: dict[int, set[Operation]] = {stream: set() for stream in streams}
        ended: dict[Operation, set[Operation]] = {}
        for one, stream in zip(row, streams, strict=True):
            if isinstance(one, Compute):
                known[stream].add(one.operation)
                ended[one.operation] = set(known[stream])
            elif isinstance(one, Await):
                assert one.operation not in known[stream]
                known[stream] |= ended[one.operation]


@pytest.mark.parametrize("seed", range(80))
def test_a_rule_between_ranks_holds_or_is_refused(seed: int) -> None:
    """Between streams of two ranks a rule holds where results lead from one to the other. The proof
    comes to the same by itself."""
    rng = Random(seed)
    order = random_order(rng)
    problem = order.problem
    sequence = [i for row in order.lists for i in row]
    times = earliest(order)
    ruled = []
    for _ in range(4):
        a, b = rng.choice(sequence), rng.choice(sequence)
        ends = times.end[times.lane[a]][times.index[a]]
        if problem.rank[a] != problem.rank[b] and ends < times.start[times.lane[b]][times.index[b]]:
            ruled.append(Rule(problem.operations[b], problem.operations[a], 0))
    spec = replace(problem.spec, rules=(*problem.spec.rules, *ruled))
    order = Order(expand(spec), order.lanes, order.engine, lists=order.lists)
    try:
        program = communicate(order)
    except Rejected as rejected:
        assert {one.code for one in rejected.diagnostics} == {"rule-between-ranks"}
        bare = communicate(Order(problem, order.lanes, order.engine, lists=order.lists))
        broken = replace(bare, spec=spec)
        with pytest.raises(Rejected):
            prove(broken)
    else:
        prove(program)


@pytest.mark.parametrize("seed", range(40))
def test_sums_over_ties_come_after_what_changes_their_gradients(seed: int) -> None:
    """On streams other than `compute` input gradients do the work of weight gradients."""
    rng = Random(seed)
    order = random_order(rng)
    lines = order.problem.spec.pipelines
    originals = [p for p, line in enumerate(lines) if line.replicates == -1]
    ends = [(p, s) for p in originals for s in (0, len(lines[p].stages) - 1)]
    family = [[q for q, x in enumerate(lines) if p in (q, x.replicates)] for p, _ in ends]
    holders: dict[int, list[TiedPlace]] = {}
    for (_, s), copies in zip(ends, family, strict=True):
        for q in copies:
            place = TiedPlace(q, s, "weight")
            row = holders.setdefault(lines[q].stages[s].rank, [])
            if place not in row:
                row.append(place)
    program = communicate(order)
    tied = with_ties(program, (Tie("tie", tuple(map(tuple, holders.values()))),))
    if len(holders) == 1:
        return
    prove(tied)
    for _ in range(3):
        Run(tied, order.problem, rng).run()


def test_a_limit_adds_nothing_where_compute_takes_and_frees() -> None:
    """There stream order is enough. Where another stream takes it is not, and the planned times
    stay what they were."""
    spec = parts_spec(2, 6, (lambda s: s, lambda s: 1 - s), limit=3)
    order = order_of(expand(spec), random_sequence(expand(spec), Random(0)))
    bare = limited(order, [99, 99])
    assert communicate(order).ranks == communicate(bare).ranks
    pipelines = [
        replace(line, stages=tuple(_on_top(stage) for stage in line.stages))
        for line in spec.pipelines
    ]
    more = more_than_bare = 0
    for seed in range(20):
        heavy = expand(replace(spec, pipelines=tuple(pipelines)))
        order = order_of(heavy, random_sequence(heavy, Random(seed)))
        free = Order(expand(replace(heavy.spec, limits=())), order.lanes, "", lists=order.lists)
        found, other = communicate(order), communicate(free)
        more += sum(len(row) for row in found.ranks)
        more_than_bare += sum(len(row) for row in other.ranks)
        assert claims(found) == claims(other)
    assert more > more_than_bare


def _on_top(stage: Stage) -> Stage:
    """The stage with something on top that its parts on the second stream take."""
    return replace(stage, parts=tuple(part._replace(activation=1) for part in stage.parts))
