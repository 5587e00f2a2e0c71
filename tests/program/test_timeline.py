"""The clock against longest paths computed here, and by hand."""

from functools import partial
from random import Random

import msgspec
import pytest

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.order.written import written
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import CostOverride, Operation, PairCostOverride, Spec
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicate, forwards
from stretto.compiler.program.program import (
    Channel,
    Compute,
    Instruction,
    Program,
    Receive,
    Send,
    Wait,
)
from stretto.compiler.program.timeline import time
from tests.support import specs
from tests.support.clocks import longest_paths


def random_spec(seed: int) -> Spec:
    """With costs that differ from operation to operation, and from pair to pair."""
    random = Random(seed)
    spec = specs.random_order(specs.random_model(random), random, pairs=random.choice([0, 0.6]))
    units = [unit.operations for units in spec.written for unit in units]
    singles = [o for unit in units for o in unit if random.random() < 0.2]
    pairs = [unit for unit in units if len(unit) == 2 and random.random() < 0.3]
    return msgspec.structs.replace(
        spec,
        exceptions=tuple(CostOverride(o, random.randint(0, 9)) for o in singles),
        exceptional_pairs=tuple(PairCostOverride(f, b, random.randint(0, 9)) for f, b in pairs),
    )


def test_nothing_is_delayed_by_how_messages_are_laid_out() -> None:
    for seed in range(400):
        spec = random_spec(seed)
        timeline = time(communicate(written(expand(spec))))
        assert {t.operation: (t.start, t.end) for row in timeline.ranks for t in row} == (
            longest_paths(spec)
        )
        delay = spec.transfers[0].ticks if spec.transfers else 0
        assert all(m.arrived == m.sent + delay for m in timeline.messages)


def test_makespan_span_and_idle_time() -> None:
    """1F1B on 2 ranks, 2 micro-batches, transfer 1: F0 F1 . . . B0 . B1 over . . F0 B0 F1 B1."""
    spec = specs.ordered(specs.linear(2, 2, (1, 1, 1), transfer=1), specs.one_f_one_b)
    timeline = time(communicate(written(expand(spec))))
    starts = [[(t.operation.kind, t.start, t.end) for t in row] for row in timeline.ranks]
    assert starts == [
        [("F", 0, 1), ("F", 1, 2), ("B", 6, 8), ("B", 9, 11)],
        [("F", 2, 3), ("B", 3, 5), ("F", 5, 6), ("B", 6, 8)],
    ]
    assert (timeline.makespan, timeline.span) == (11, 11)
    assert [timeline.busy(rank) for rank in (0, 1)] == [6, 6]
    assert [timeline.idle(rank) for rank in (0, 1)] == [5, 5]


def test_a_pair_is_busy_once_and_both_results_count_at_its_end() -> None:
    f, b = partial(Operation, "F", 0), partial(Operation, "B", 0)
    order: list[specs.Units] = [
        [(f(0, 0),), (f(0, 1), b(0, 0)), (b(0, 1),)],
        [(f(1, 0),), (b(1, 0),), (f(1, 1),), (b(1, 1),)],
    ]
    spec = specs.written(specs.linear(2, 2, (2, 2, 2), pair=5), order)
    timeline = time(communicate(written(expand(spec))))
    first, pair = timeline.ranks[0][0], timeline.ranks[0][1:3]
    assert [(t.start, t.end) for t in (first, *pair)] == [(0, 2), (8, 13), (8, 13)]
    assert pair[0].unit == pair[1].unit
    assert timeline.ranks[1][2].start == 13
    assert timeline.busy(0) == 2 + 5 + 4


def late(program: Program) -> Program:
    """Every receive stands right before the wait for it."""
    ranks = []
    for row in program.ranks:
        moved: dict[int, Receive] = {}
        found: list[Instruction] = []
        for one in row:
            if isinstance(one, Receive):
                moved[one.slot] = one
                continue
            if isinstance(one, Wait) and one.slot in moved:
                found.append(moved.pop(one.slot))
            found.append(one)
        ranks.append(tuple(found))
    return msgspec.structs.replace(program, ranks=tuple(ranks))


def test_a_receive_that_is_posted_late_arrives_late() -> None:
    """The lists are timed as they stand, not as they were meant."""
    spec = specs.ordered(specs.linear(2, 4, (1, 1, 1), transfer=3), specs.gpipe)
    program = communicate(written(expand(spec)))
    assert time(late(program)).makespan > time(program).makespan


def test_lists_that_wait_for_each_other_are_refused() -> None:
    """Both ranks wait for their send before they post."""
    spec = specs.linear(2, 1)
    channels = (Channel(0, 1, "activation"), Channel(1, 0, "activation"))
    here, there = Operation("F", 0, 0, 0), Operation("F", 0, 1, 0)
    ranks = tuple(
        (
            Compute(mine, (), 0, at=0),
            Send(0, to),
            Wait(0),
            Receive(1, 1 - to, other),
            Wait(1),
            Compute(mine._replace(kind="B"), (1,), at=0),
        )
        for to, (mine, other) in enumerate([(here, there), (there, here)])
    )
    with pytest.raises(Rejected) as caught:
        time(Program(spec, "train", channels, (), ranks))
    (found,) = caught.value.diagnostics
    assert found.message == "this plan can never finish: ranks 0, 1 wait for each other"
    assert [label.text for label in found.labels] == [
        "rank 0 waits before `B main[0, 0]`",
        "rank 1 waits before `B main[1, 0]`",
    ]


def test_peaks_of_a_split_backward() -> None:
    """Sizes 2, of which 1 is kept from the end of I on: F F I F … on one rank."""
    words = ["F0", "F1", "I0", "F2", "W0", "I1", "I2", "W1", "W2"]
    units = [(Operation(word[0], 0, 0, int(word[1])),) for word in words]
    spec = specs.written(specs.linear(1, 3), [units])
    order = written(expand(spec))
    assert claims(communicate(order)).activations == (5,)
    assert claims(forwards(order)).activations == (2,)


def test_a_pair_holds_both_activations_at_once() -> None:
    f, b = partial(Operation, "F", 0, 0), partial(Operation, "B", 0, 0)
    for pair, peak in ((True, 4), (False, 2)):
        middle = [(f(1), b(0))] if pair else [(b(0),), (f(1),)]
        spec = specs.written(specs.linear(1, 2), [[(f(0),), *middle, (b(1),)]])
        assert claims(communicate(written(expand(spec)))).activations == (peak,)
