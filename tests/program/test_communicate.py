"""Order → Program: no order that can finish is refused or delayed by how its messages are laid
out. The explorer, which runs Programs with sends that wait for their receives, and the proof are
not ours to bend here."""

from collections import Counter
from functools import partial
from random import Random

import pytest

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.order.written import written
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import NONE, Feed, Operation, Rule, Spec
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicate, forwards
from stretto.compiler.program.program import (
    Compute,
    Copy,
    Free,
    Program,
    Receive,
    Reduce,
    Send,
    Wait,
)
from stretto.compiler.program.slots import assign
from stretto.compiler.proof.prove import prove
from tests.support import specs
from tests.support.explorer import FINISH, follow


def programs(spec: Spec) -> tuple[Program, Program]:
    order = written(expand(spec))
    return communicate(order), forwards(order)


def random_spec(seed: int) -> Spec:
    random = Random(seed)
    return specs.random_order(specs.random_model(random), random, pairs=random.choice([0, 0.5]))


def inversions(program: Program) -> int:
    """How often a rank uses the messages of a channel in another order than they are sent."""
    found = 0
    for row in program.ranks:
        channel_of: dict[int, tuple[int, int]] = {}
        counts: Counter[int] = Counter()
        last: dict[int, int] = {}
        for one in row:
            if isinstance(one, Receive):
                channel_of[one.slot] = one.channel, counts[one.channel]
                counts[one.channel] += 1
            elif isinstance(one, Wait) and one.slot in channel_of:
                channel, k = channel_of.pop(one.slot)
                found += last.get(channel, -1) > k
                last[channel] = k
    return found


# ---------------------------------------------------------------------------- it can finish


def test_every_order_that_can_finish_becomes_a_program_that_is_proved() -> None:
    seen: Counter[str] = Counter()
    for seed in range(2000):
        spec = random_spec(seed)
        if seed % 2 and any(len(units) > 1 for units in spec.written):
            spec = specs.shuffled(spec, Random(seed), swaps=2)
        try:
            order = written(expand(spec))
        except Rejected:
            seen["circle"] += 1
            continue
        seen["no circle"] += 1
        for program in (communicate(order), forwards(order)):
            assert prove(program, claims(program))
            seen["used out of order"] += inversions(program) > 0
            seen["local"] += any(
                isinstance(one, Compute) and one.writes in one.reads
                for row in program.ranks
                for one in row
            )
    assert seen["circle"] > 300 and seen["no circle"] > 1000
    assert seen["used out of order"] > 300


def test_it_finishes_under_any_interleaving_with_sends_that_wait() -> None:
    for seed in range(300):
        random = Random(seed)
        for program in programs(random_spec(seed)):
            for _ in range(2):
                assert follow(program, 0, random.choice) == FINISH


@pytest.mark.parametrize("seed", range(4))
def test_larger_shapes(seed: int) -> None:
    random = Random(seed)
    for spec in (
        specs.linear(8, 12, (2, 3, 1), transfer=1),
        specs.interleaved(4, 3, 8, transfer=2),
        specs.vee(6, 9, (0, 1, 0)),
        specs.both_ways(6, 12, (1, 1, 1), pair=2, transfer=seed),
    ):
        program, alone = programs(specs.random_order(spec, random, pairs=0.5))
        assert prove(program, claims(program))
        assert prove(alone, claims(alone))


def test_a_post_behind_the_wait_for_it_would_be_found() -> None:
    """That the programs above finish is not because nothing could stop them."""
    program, _ = programs(specs.ordered(specs.linear(2, 2), specs.one_f_one_b))
    row = list(program.ranks[1])
    post = next(k for k, one in enumerate(row) if isinstance(one, Receive))
    row.append(row.pop(post))
    ranks = (program.ranks[0], tuple(row))
    broken = Program(program.spec, "train", program.channels, (), ranks)
    assert follow(broken, 0, Random(0).choice) != FINISH
    with pytest.raises(Rejected):
        prove(broken)


# ---------------------------------------------------------------------------- where things stand


def test_a_result_leaves_before_the_second_half_of_its_pair() -> None:
    pairs = 0
    for seed in range(200):
        program, _ = programs(random_spec(seed))
        for row in program.ranks:
            for k, one in enumerate(row):
                if isinstance(one, Compute) and one.unit != NONE and one.operation.kind == "F":
                    sends = k + 1
                    while isinstance(row[sends], Send):
                        sends += 1
                    second = row[sends]
                    assert isinstance(second, Compute) and second.unit == one.unit
                    pairs += 1
    assert pairs > 200


def test_what_stays_on_the_rank_is_handed_over_in_its_slot() -> None:
    program, _ = programs(
        specs.random_order(specs.model(1, specs.pipeline("main", [0, 0], 2)), Random(0))
    )
    assert not program.channels
    assert {type(one) for one in program.ranks[0]} == {Compute, Free}


def test_a_result_that_many_need_is_made_once_and_sent_to_each_rank_once() -> None:
    """It feeds stages on ranks 0, 1 and 1."""
    side = specs.pipeline("side", [2], 1, feeds=(Feed(0, 0), Feed(0, 1), Feed(0, 2)))
    spec = specs.model(3, specs.pipeline("main", [0, 1, 1], 1), side)
    program, _ = programs(specs.random_order(spec, Random(3), split=0.0))
    made = Operation("F", 1, 0, 0)
    k, one = next(
        (k, one)
        for k, one in enumerate(program.ranks[2])
        if isinstance(one, Compute) and one.operation == made
    )
    sends = program.ranks[2][k + 1 : k + 3]
    assert [program.channels[send.channel].target for send in sends] == [0, 1]  # type: ignore[union-attr]
    assert {send.slot for send in sends} == {one.writes}  # type: ignore[union-attr]
    for rank in (0, 1):
        posts = [x for x in program.ranks[rank] if isinstance(x, Receive) and x.result == made]
        assert len(posts) == 1
    learns = next(x for x in program.ranks[2] if isinstance(x, Compute) and x.operation.kind == "B")
    assert len(learns.reads) == 3


def test_copies_are_summed_once_at_the_end_of_each_of_their_ranks() -> None:
    program, alone = programs(specs.random_order(specs.both_ways(3, 4), Random(1)))
    assert [r.copies for r in program.reductions] == [
        (Copy(0, 0, 0), Copy(1, 0, 2)),
        (Copy(0, 1, 1), Copy(1, 1, 1)),
        (Copy(1, 2, 0), Copy(0, 2, 2)),
    ]
    ends = [[one for one in row if isinstance(one, Reduce)] for row in program.ranks]
    assert ends == [[Reduce(0), Reduce(2)], [Reduce(1)], [Reduce(0), Reduce(2)]]
    for row, end in zip(program.ranks, ends, strict=True):
        assert list(row[-len(end) :]) == end
    assert not alone.reductions


def test_a_backlog_is_held_by_the_receiver_alone() -> None:
    """A fast first stage before a slow second one: its outputs leave, and are not kept on both
    ends of the wire."""
    fast = specs.pipeline("main", [0, 1], 20, lambda s: (1, 1, 0) if s == 0 else (4, 4, 0))
    program, _ = programs(specs.ordered(specs.model(2, fast), specs.gpipe))
    found = claims(program)
    assert found.receives[1] == 17  # 15 that wait, the one in use, and one posted early
    assert found.outputs == (2, 2)


# ---------------------------------------------------------------------------- rules


def test_a_rule_between_ranks_needs_results_that_carry_it() -> None:
    first, second = Operation("F", 0, 0, 0), Operation("F", 1, 0, 0)
    lines = specs.pipeline("a", [0], 2), specs.pipeline("b", [1], 2)
    rule = (Rule(second, first, 0),)
    with pytest.raises(Rejected) as caught:
        programs(specs.random_order(specs.model(2, *lines, rules=rule), Random(0)))
    (found,) = caught.value.diagnostics
    assert found.code == "rule-between-ranks"
    assert found.message == "nothing makes `F b[0, 0]` on rank 1 wait for `F a[0, 0]` on rank 0"


def test_a_rule_that_results_carry_is_kept() -> None:
    rule = (Rule(Operation("F", 0, 2, 1), Operation("F", 0, 0, 0), 0),)
    program, _ = programs(specs.ordered(specs.linear(3, 2, rules=rule), specs.one_f_one_b))
    assert prove(program, claims(program))


def test_the_first_half_of_a_pair_does_not_speak_for_the_second() -> None:
    """F of micro-batch 1 leaves rank 0 before B of micro-batch 0, which it overlaps, has ended."""
    spec = specs.linear(2, 2, split=False)
    f, b = partial(Operation, "F", 0), partial(Operation, "B", 0)
    order: list[specs.Units] = [
        [(f(0, 0),), (f(0, 1), b(0, 0)), (b(0, 1),)],
        [(f(1, 0),), (b(1, 0),), (f(1, 1),), (b(1, 1),)],
    ]
    for earlier, kept in ((f(0, 1), True), (b(0, 0), False)):
        ruled = specs.linear(2, 2, rules=(Rule(f(1, 1), earlier, 0),))
        if kept:
            assert prove(programs(specs.written(ruled, order))[0])
        else:
            with pytest.raises(Rejected):
                programs(specs.written(ruled, order))
    assert prove(programs(specs.written(spec, order))[0])


# ---------------------------------------------------------------------------- slots


def test_slots_are_shared_by_none_that_live_together_and_are_as_few_as_can_be() -> None:
    random = Random(0)
    for _ in range(300):
        lifetimes = []
        for _ in range(random.randint(0, 30)):
            born = random.randint(0, 40)
            lifetimes.append((born, born + random.randint(1, 20)))
        numbers = assign(lifetimes)
        for moment in range(61):
            alive = [n for n, (a, b) in zip(numbers, lifetimes, strict=True) if a <= moment < b]
            assert len(set(alive)) == len(alive)
        most = max((sum(a <= t < b for a, b in lifetimes) for t in range(61)), default=0)
        assert len(set(numbers)) == most
        assert not numbers or max(numbers) == most - 1


def test_a_rank_numbers_its_receives_first_and_then_its_outputs() -> None:
    for seed in range(100):
        program, _ = programs(random_spec(seed))
        found = claims(program)
        for rank, row in enumerate(program.ranks):
            received = {one.slot for one in row if isinstance(one, Receive)}
            wrote = {one.writes for one in row if isinstance(one, Compute)} - {NONE}
            few = found.receives[rank]
            assert received == set(range(few))
            assert wrote == set(range(few, few + found.outputs[rank]))
