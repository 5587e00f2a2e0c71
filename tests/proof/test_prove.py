"""What the proof refuses, one broken thing at a time, and in which words; that its figures are
those of the clock and the counts that the compiler makes by itself."""

from collections.abc import Callable
from random import Random

import pytest
from msgspec.structs import replace

from stretto.compiler.diagnostics.codes import CODES
from stretto.compiler.diagnostics.diagnostic import Diagnostic, Rejected
from stretto.compiler.order.arrange import arrange
from stretto.compiler.order.budget import Budget
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Limit, Operation, Rule, Spec
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicate, forwards
from stretto.compiler.program.program import (
    Channel,
    Claims,
    Compute,
    Free,
    Instruction,
    Program,
    ProgramName,
    Receive,
    Reduce,
    Reduction,
    Send,
    Wait,
)
from stretto.compiler.proof.circle import shortest
from stretto.compiler.proof.prove import ASSUMPTIONS, STREAM_ASSUMPTIONS, prove, prove_all
from tests.support import specs
from tests.support.explorer import FINISH, explore
from tests.support.paths import ROOT

DOCS = ROOT / "docs"


def train(spec: Spec) -> Program:
    return communicate(arrange(expand(spec), Budget()))


def evaluation(spec: Spec) -> Program:
    return forwards(arrange(expand(spec), Budget()))


def findings(program: Program, claims: Claims | None = None) -> tuple[Diagnostic, ...]:
    with pytest.raises(Rejected) as rejected:
        prove(program, claims)
    return rejected.value.diagnostics


def op(name: str, microbatch: int, stage: int, pipeline: int = 0) -> Operation:
    return Operation(name, pipeline, stage, microbatch)


# ---------------------------------------------------------------------------- figures


def test_the_figures_are_those_of_the_clock_and_the_counts_of_the_compiler() -> None:
    """Two computations of the same, written apart: `timeline` and `claim`, and the proof."""
    for seed in range(250):
        random = Random(seed)
        spec = specs.random_order(specs.random_model(random), random, pairs=0.5)
        spec = replace(spec, overlap=("B", "I"))
        for program in (train(spec), evaluation(spec)):
            assert prove(program).claims == claims(program), seed


def test_a_rank_without_work_and_a_step_without_micro_batches_are_proved() -> None:
    spec = specs.model(3, specs.pipeline("main", (0, 2), 0))
    program = Program(spec, "train", (), (), ((), (), ()))
    zeros = (0, 0, 0)
    assert prove(program).claims == Claims(0, 0, 0, zeros, zeros, zeros)


# ---------------------------------------------------------------------------- one broken thing

# Two ranks, stage s on rank s, two micro-batches: all forwards, then all backwards. By hand, so
# that the instructions are in sight. Slots 0 and 1 of each rank.
UP, DOWN = 0, 1  # channels: activations from rank 0 to 1, gradients back
GOOD: tuple[tuple[Instruction, ...], ...] = (
    (
        Compute(op("F", 0, 0), (), 0, at=1),  # 0
        Send(0, UP),
        Compute(op("F", 1, 0), (), 1, at=2),  # 2
        Send(1, UP),
        Wait(0),  # 4
        Free(0),
        Receive(0, DOWN, op("B", 0, 1)),  # 6
        Wait(1),
        Free(1),  # 8
        Wait(0),
        Compute(op("B", 0, 0), (0,), at=3),  # 10
        Free(0),
        Receive(0, DOWN, op("B", 1, 1)),  # 12
        Wait(0),
        Compute(op("B", 1, 0), (0,), at=4),  # 14
        Free(0),
    ),
    (
        Receive(0, UP, op("F", 0, 0)),  # 0
        Receive(1, UP, op("F", 1, 0)),
        Wait(0),  # 2
        Compute(op("F", 0, 1), (0,), at=5),
        Free(0),  # 4
        Wait(1),
        Compute(op("F", 1, 1), (1,), at=6),  # 6
        Free(1),
        Compute(op("B", 0, 1), (), 0, at=7),  # 8
        Send(0, DOWN),
        Compute(op("B", 1, 1), (), 1, at=8),  # 10
        Send(1, DOWN),
        Wait(0),  # 12
        Free(0),
        Wait(1),  # 14
        Free(1),
    ),
)
SPEC = specs.ordered(specs.linear(2, 2), specs.gpipe)
CHANNELS = (Channel(0, 1, "activation"), Channel(1, 0, "gradient"))
PROGRAM = Program(SPEC, "train", CHANNELS, (), GOOD)


def changed(rank: int, at: int, *instructions: Instruction, drop: int = 1) -> Program:
    """The good Program with `drop` instructions of a rank, from `at` on, replaced by others."""
    own = GOOD[rank]
    own = (*own[:at], *instructions, *own[at + drop :])
    return replace(PROGRAM, ranks=(own, GOOD[1]) if rank == 0 else (GOOD[0], own))


def test_the_good_program_is_good() -> None:
    proof = prove(PROGRAM)
    assert proof.claims == Claims(9, 9, 12, (4, 4), (1, 2), (2, 2))
    assert (proof.operations, proof.messages) == (8, 4)


F00, F10, B00, B10 = (op(kind, m, 0) for kind in "FB" for m in (0, 1))
BROKEN: list[tuple[Program, str, str]] = [
    (changed(0, 0), "missing-operation", "rank 0 never runs F main[0, 0]"),
    (
        changed(1, 6, Compute(op("F", 0, 1), (1,))),
        "repeated-operation",
        "rank 1, instruction 6: F main[1, 0]: this was done before",
    ),
    (changed(1, 3, Compute(F00, (0,))), "wrong-rank", "its stage is on rank 0"),
    (changed(1, 3, Compute(op("F", 7, 1), (0,))), "no-such-duty", "F main[1, 7]"),
    (changed(0, 0, Compute(F00, (), 0, stream=1)), "wrong-stream", "stream 1"),
    (
        changed(1, 6, Compute(op("B", 1, 1), (), 0)),
        "too-early",
        "rank 1, instruction 6: B main[1, 1]: its forward has not been computed yet",
    ),
    (
        changed(1, 3, Compute(op("F", 0, 1), (1,)), drop=1),
        "still-arriving",
        "it reads slot 1 before the wait for it",
    ),
    (
        changed(1, 6, Compute(op("F", 1, 1), (0,))),
        "empty-slot",
        "it reads slot 0, which holds nothing",
    ),
    (
        changed(0, 12, Receive(0, DOWN, op("B", 0, 1))),
        "wrong-input",
        "it needs the result of B main[1, 1], but slot 0 holds that of B main[1, 0]",
    ),
    (changed(0, 10, Compute(B00, ())), "wrong-input", "it needs 1 results, and reads 0"),
    (changed(0, 10, Compute(B00, (0,), 1)), "wrong-result", "nothing needs a result"),
    (changed(0, 0, Compute(F00), drop=2), "wrong-result", "its result is needed"),
    (
        changed(0, 2, Compute(F10, (), 0)),
        "slot-in-use",
        "slot 0 still has the result of F main[0, 0]",
    ),
    (changed(0, 4), "slot-in-use", "free of slot 0: its message is still leaving"),
    (changed(0, 8, Wait(1)), "idle-wait", "nothing was begun on slot 1"),
    (changed(0, 15, Free(0), Free(0)), "empty-slot", "slot 0 is already free"),
    (changed(0, 15), "slot-left", "slot 0, with the result of B main[1, 1], is never freed"),
    (changed(0, 1, Send(0, DOWN)), "wrong-channel", "channel 1 goes from rank 1 to 0"),
    (changed(0, 1, Send(0, 5)), "wrong-channel", "the plan has no channel 5"),
    (changed(0, 1, Send(0, UP), Send(0, UP)), "wrong-message", "brings F main[0, 0] instead"),
    (
        changed(1, 9, drop=1),
        "unused-result",
        "nothing used the result of B main[1, 0]",
    ),
    (changed(0, 15, Free(0), Reduce(0)), "wrong-sum", "the plan has no sum number 0"),
    (
        replace(PROGRAM, channels=(*CHANNELS, CHANNELS[0])),
        "wrong-channel",
        "channel 2, activations from rank 0 to rank 1, exists twice",
    ),
    (
        replace(PROGRAM, channels=(*CHANNELS, Channel(1, 1, "gradient"))),
        "wrong-channel",
        "joins no two ranks",
    ),
    (replace(PROGRAM, reductions=(Reduction(()),)), "wrong-sum", "the schedule has no such copies"),
    (
        replace(PROGRAM, spec=specs.model(2, specs.pipeline("main", (0, 1), 2, kept=3))),
        "wrong-size",
        "stage 0 of `main` has a negative cost or size",
    ),
    (replace(PROGRAM, ranks=GOOD[:1]), "wrong-rank", "the schedule has 2 ranks, the program 1"),
    (changed(0, 0, Compute(F00, (), 0, unit=3)), "wrong-overlap", "unit 3 is not complete"),
    (changed(0, 2, Compute(F10, (), 1, unit=3)), "wrong-overlap", "inside an overlapped unit"),
]


@pytest.mark.parametrize(
    ("program", "code", "words"), BROKEN, ids=[f"{c}-{w}" for _, c, w in BROKEN]
)
def test_a_broken_program_is_refused_in_words(program: Program, code: str, words: str) -> None:
    found = findings(program)
    assert any(one.code == code and words in one.message for one in found), found
    assert code in CODES


def test_a_message_that_nobody_receives_shows_where_it_was_sent() -> None:
    spec = specs.ordered(specs.linear(2, 2), specs.gpipe)
    extra = changed(0, 1, Send(0, UP), Send(0, UP))
    (found,) = findings(replace(extra, spec=spec))
    assert found.message == (
        "rank 1, instruction 1: receive of F main[0, 1] from rank 0: "
        "message 1 of this channel brings F main[0, 0] instead"
    )
    assert found.notes == ("sent here: rank 0, instruction 2: send of F main[0, 0] to rank 1",)
    # the compute that the receive serves, and the one whose result was sent
    assert [label.span.line for label in found.labels] == [2, 1]


# ---------------------------------------------------------------------------- together


def test_a_deadlock_is_the_waiting_circle_with_its_lines() -> None:
    """Rank 0 posts the receive of the first gradient only after its second activation was taken;
    rank 1 posts the receive of that only after the gradient was. Nothing else is wrong, and where
    sends are buffered it would run."""
    first = (
        Compute(op("F", 0, 0), (), 0, at=1),  # 0
        Send(0, UP),
        Compute(op("F", 1, 0), (), 1, at=2),  # 2
        Send(1, UP),
        Wait(0),  # 4
        Free(0),
        Wait(1),  # 6: here
        Free(1),
        Receive(0, DOWN, op("B", 0, 1)),  # 8
        *GOOD[0][9:],
    )
    second = (
        Receive(0, UP, op("F", 0, 0)),  # 0
        Wait(0),
        Compute(op("F", 0, 1), (0,), at=5),  # 2
        Free(0),
        Compute(op("B", 0, 1), (), 0, at=6),  # 4
        Send(0, DOWN),
        Wait(0),  # 6: here
        Free(0),
        Receive(0, UP, op("F", 1, 0)),  # 8
        Wait(0),
        Compute(op("F", 1, 1), (0,), at=7),  # 10
        Free(0),
        Compute(op("B", 1, 1), (), 0, at=8),  # 12
        Send(0, DOWN),
        Wait(0),  # 14
        Free(0),
    )
    spec = specs.ordered(specs.linear(2, 2), specs.one_f_one_b)
    (found,) = findings(replace(PROGRAM, spec=spec, ranks=(first, second)))
    assert found.code == "deadlock"
    assert found.message == "this step can never finish: ranks 0 and 1 wait for each other"
    assert found.notes == (
        "rank 0, instruction 6: wait for slot 1 "
        "(rank 0, instruction 3: send of F main[0, 1] to rank 1) waits for "
        "rank 1, instruction 8: receive of F main[0, 1] from rank 0",
        "rank 1, instruction 6: wait for slot 0 "
        "(rank 1, instruction 5: send of B main[1, 0] to rank 0) waits for "
        "rank 0, instruction 8: receive of B main[1, 0] from rank 1",
    )
    lines = [(label.span.line, label.span.column, label.text) for label in found.labels]
    assert lines == [
        (1, 3, "rank 0 waits here, at instruction 6"),
        (2, 3, "rank 1 waits here, at instruction 6"),
    ]
    assert explore(replace(PROGRAM, spec=spec, ranks=(first, second)), 1) == {FINISH}


def test_who_waits_behind_the_circle_is_named() -> None:
    """Ranks 0 and 1 come to two sums in different order, ranks 2 and 3 wait for them."""
    lines = [(0, 1, 2, 0, 0), (1, 2, 3, 1, 1)]
    spec = specs.model(
        4,
        *(
            specs.pipeline(f"p{p}", ranks, 1, first=p, replicates=0 if p else -1)
            for p, ranks in enumerate(lines)
        ),
    )
    program = train(specs.random_order(spec, Random(0), split=0))
    pairs = [sorted({copy.rank for copy in sums.copies}) for sums in program.reductions]
    assert pairs == [[0, 1], [1, 2], [2, 3], [0, 1], [0, 1]]
    sums = {0: (3, 4, 0), 1: (4, 3, 0, 1), 2: (1, 2), 3: (2,)}
    lists = tuple(
        (*(one for one in own if not isinstance(one, Reduce)), *map(Reduce, sums[rank]))
        for rank, own in enumerate(program.ranks)
    )
    (found,) = findings(replace(program, ranks=lists))
    assert found.message == "this step can never finish: ranks 0 and 1 wait for each other"
    assert found.notes[-1] == "ranks 2 and 3 wait behind them"


def test_the_shortest_circle_is_found() -> None:
    assert sorted(shortest({0: [1, 4], 1: [2], 2: [3], 3: [1], 4: [5, 2], 5: [4]})) == [4, 5]


# ---------------------------------------------------------------------------- rules, orders, limits


def ruled(later: Operation, earlier: Operation, spec: Spec = SPEC) -> Spec:
    return replace(spec, rules=(Rule(later, earlier, 0),))


def test_a_rule_on_one_rank_is_kept() -> None:
    assert prove(replace(PROGRAM, spec=ruled(B00, F10)))
    (found,) = findings(replace(PROGRAM, spec=ruled(F10, B00)))
    assert found.code == "too-early"
    assert found.message.endswith("F main[0, 1]: a rule puts it after B main[0, 0]")


def test_a_rule_between_ranks_holds_only_if_messages_carry_it() -> None:
    """The time at which something happens proves nothing: the other rank has to hear of it."""
    assert prove(replace(PROGRAM, spec=ruled(B00, op("F", 0, 1))))
    (found,) = findings(replace(PROGRAM, spec=ruled(B00, op("B", 1, 1))))
    assert "nothing makes it wait for B main[1, 1], as a rule asks" in found.message


@pytest.mark.parametrize("split", [0.0, 1.0])
def test_a_rule_on_b_means_its_halves_too(split: float) -> None:
    spec = specs.random_order(specs.linear(1, 2), Random(3), split=split)
    program = train(spec)
    first, last = spec.written[0][0].operations[0], spec.written[0][-1].operations[0]
    assert (first.kind, last.kind) == ("F", "W" if split else "B")
    backward = last._replace(kind="B")
    assert prove(replace(program, spec=ruled(backward, first, spec)))
    assert findings(replace(program, spec=ruled(first, backward, spec)))[0].code == "too-early"


def test_the_order_is_the_authors() -> None:
    other = specs.ordered(specs.linear(2, 2), specs.one_f_one_b)
    found = findings(replace(PROGRAM, spec=other))
    assert [one.code for one in found] == ["other-order"]
    assert "rank 1 does not run" in found[0].message
    assert "unit 1 is B main[1, 0], it runs F main[1, 1]" in found[0].message
    assert found[0].labels[0].span.line == 2
    from_disk = replace(other, written=())
    assert [one.code for one in findings(replace(PROGRAM, spec=from_disk))] == ["other-order"]


def test_an_order_that_leaves_operations_out_keeps_the_sequence_of_the_others() -> None:
    partial = tuple(
        tuple(u for u in units if u.operations[0].microbatch == 1) for units in SPEC.written
    )
    free = replace(SPEC, order=("", ""), written=partial)
    assert prove(replace(PROGRAM, spec=free))
    backwards = replace(free, written=tuple(units[::-1] for units in partial))
    assert {one.code for one in findings(replace(PROGRAM, spec=backwards))} == {"other-order"}


def test_an_evaluation_runs_the_forwards_of_the_step() -> None:
    spec = specs.ordered(specs.interleaved(2, 2, 2), specs.interleaved_1f1b)
    programs: dict[ProgramName, Program] = {"train": train(spec), "eval": evaluation(spec)}
    assert prove_all(programs).keys() == programs.keys()
    other = specs.random_order(specs.interleaved(2, 2, 2), Random(2))
    bare = replace(spec, written=())
    mixed: dict[ProgramName, Program] = {
        "train": replace(programs["train"], spec=bare),
        "eval": replace(evaluation(other), spec=bare),
    }
    with pytest.raises(Rejected, match="forwards of the evaluation in another order"):
        prove_all(mixed)


def test_a_limit_is_kept() -> None:
    def limited(grains: int) -> Program:
        return replace(PROGRAM, spec=replace(SPEC, limits=(None, Limit(grains, 0))))

    assert prove(limited(4))
    (found,) = findings(limited(3))
    assert found.code == "over-limit"
    told = "rank 1 would hold 2 activations at `F main[1, 1]`"
    assert found.message in (
        f"{told}; the limit is 1.5",
        f"{told}, instruction 6; the limit is 1.5",
    )
    assert found.labels[-1].text == "the limit is 1.5"
    assert found.help == "allow 2, or run a `B` earlier"


@pytest.mark.parametrize("field", Claims.__struct_fields__)
def test_every_claim_is_recomputed(field: str) -> None:
    true = prove(PROGRAM).claims
    value = getattr(true, field)
    wrong = value + 1 if isinstance(value, int) else (value[0], value[1] - 1)
    assert prove(PROGRAM, true)
    (found,) = findings(PROGRAM, replace(true, **{field: wrong}))
    assert found.code == "false-claim" and f"`{field}`" in found.message


# ---------------------------------------------------------------------------- shapes


def test_sums_of_copies_come_once_on_every_rank_after_the_last_gradient() -> None:
    spec = specs.random_order(specs.both_ways(2, 2), Random(5), split=0)
    program = train(spec)
    at = [next(i for i, one in enumerate(own) if isinstance(one, Reduce)) for own in program.ranks]

    def edited(edit: Callable[[list[Instruction]], object]) -> Program:
        own = list(program.ranks[0])
        edit(own)
        return replace(program, ranks=(tuple(own), program.ranks[1]))

    assert prove(program)
    early = edited(lambda own: own.insert(0, own.pop(at[0])))
    missing = edited(lambda own: own.pop(at[0]))
    twice = edited(lambda own: own.append(own[at[0]]))
    fewer = replace(program, reductions=program.reductions[:1])
    for broken, words in (
        (early, "weight gradients of stage"),
        (missing, "rank 0 never runs the sum of the gradients of stage"),
        (twice, "this was summed before"),
        (fewer, "is missing"),
    ):
        found = findings(broken)
        assert found[0].code == "wrong-sum" and words in found[0].message, found


def test_the_shares_of_copies_join_without_gaps() -> None:
    spec = specs.random_order(specs.both_ways(2, 2), Random(5), split=0)
    down, up = spec.pipelines
    broken = replace(spec, pipelines=(down, replace(up, first=0)))
    (found,) = findings(replace(train(spec), spec=broken))
    assert found.code == "wrong-share"


def test_only_what_the_schedule_overlaps_may_overlap() -> None:
    spec = specs.random_order(specs.linear(1, 4), Random(2), pairs=1, split=0)
    assert any(len(unit.operations) == 2 for unit in spec.written[0])
    program = train(spec)
    assert prove(replace(program, spec=replace(spec, overlap=("B",))))
    for overlap in (), ("I",):
        found = findings(replace(program, spec=replace(spec, overlap=overlap)))
        assert found[0].message.endswith("the schedule does not let B overlap F")


def test_the_assumptions_stand_in_the_document() -> None:
    text = " ".join((DOCS / "proof.md").read_text().split())
    assert [one for one in (*ASSUMPTIONS, *STREAM_ASSUMPTIONS) if one not in text] == []
