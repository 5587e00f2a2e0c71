"""Programs whose ranks have several streams: what the proof asks of them beside all that it asks of
others. The Programs are those of an emitter of the tests' own."""

from collections.abc import Callable
from random import Random

import pytest
from msgspec.structs import replace

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.order.arrange import arrange
from stretto.compiler.order.budget import Budget
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Operation, Spec
from stretto.compiler.program.communicate import communicate
from stretto.compiler.program.program import Await, Compute, Instruction, Program, Receive, Wait
from stretto.compiler.proof.prove import STREAM_ASSUMPTIONS, prove
from tests.support import specs
from tests.support.part_programs import emitted, lists_at_random, operations, reissued
from tests.support.part_specs import limited, random_parts
from tests.support.parts import parts_spec

Edit = Callable[[list[tuple[int, Instruction]]], None]
"""Changes the list of rank 0: each instruction with its stream."""


def linear(microbatches: int = 2, *, layers: int = 1, limit: int | None = None) -> Spec:
    return parts_spec(2, microbatches, layers=layers, limit=limit)


def both_ways(layers: int = 1) -> Spec:
    return parts_spec(2, 4, (lambda s: s, lambda s: 1 - s), layers=layers)


@pytest.mark.parametrize(
    "spec", [linear(), linear(3, layers=2), both_ways(), both_ways(2)], ids="abcd"
)
def test_random_orders_of_parts_are_proved(spec: Spec) -> None:
    """Whatever the sequences, as long as all ranks can finish."""
    for seed in range(5):
        program = emitted(spec, lists_at_random(spec, Random(seed)))
        proof = prove(program)
        assert proof.operations == len(list(operations(spec)))
        assert proof.assumptions == STREAM_ASSUMPTIONS
        evaluation = emitted(spec, lists_at_random(spec, Random(seed), "eval"), "eval")
        assert prove(evaluation).operations == len(list(operations(spec, "eval")))


# ---------------------------------------------------------------------------- one thing wrong


def edited(program: Program, edit: Edit) -> Program:
    row = list(zip(program.streams[0], program.ranks[0], strict=True))
    edit(row)
    lists = (tuple(one for _, one in row), *program.ranks[1:])
    streams = (tuple(stream for stream, _ in row), *program.streams[1:])
    return replace(program, ranks=lists, streams=streams)


def first(row: list[tuple[int, Instruction]], kind: type) -> int:
    return next(k for k, (_, one) in enumerate(row) if isinstance(one, kind))


def drop(kind: type) -> Edit:
    return lambda row: row.pop(first(row, kind)) and None


def double(kind: type) -> Edit:
    return lambda row: row.insert(first(row, kind), row[first(row, kind)])


def to_the_head(kind: type) -> Edit:
    return lambda row: row.insert(0, row.pop(first(row, kind)))


def elsewhere(kind: type) -> Edit:
    def move(row: list[tuple[int, Instruction]]) -> None:
        k = first(row, kind)
        row[k] = 1 - row[k][0], row[k][1]

    return move


def names(row: list[tuple[int, Instruction]]) -> None:
    """The first await names a part of another rank."""
    k = first(row, Await)
    row[k] = row[k][0], Await(Operation("F", 0, 1, 0, -1, 0))


def no_such_stream(row: list[tuple[int, Instruction]]) -> None:
    row[2] = 5, row[2][1]


def never(row: list[tuple[int, Instruction]]) -> None:
    """The last computation is left out."""
    k = max(k for k, (_, one) in enumerate(row) if isinstance(one, Compute))
    del row[k]


@pytest.mark.parametrize(
    ("edit", "code", "words"),
    [
        (drop(Await), "unordered-streams", "nothing on `comm` waits for F.att down[0, 0, layer 0]"),
        (double(Await), "idle-wait", "what it names comes before it already"),
        (to_the_head(Await), "too-early", "stands behind it in the list"),
        (elsewhere(Await), "idle-wait", "await of F.att down[0, 0, layer 0]"),
        (names, "no-such-duty", "this is not an operation of this rank"),
        (elsewhere(Compute), "wrong-stream", "this part belongs on `compute`"),
        (elsewhere(Receive), "wrong-stream", "this end of channel"),
        (elsewhere(Wait), "wrong-stream", "its messages were begun on"),
        (no_such_stream, "wrong-stream", "rank 0, instruction 2, stands on stream 5"),
        (never, "missing-operation", "rank 0 never runs W.att down[0, 0, layer 0]"),
    ],
)
def test_one_thing_wrong(edit: Edit, code: str, words: str) -> None:
    spec = linear(1)
    good = emitted(spec, lists_at_random(spec, Random(0)))
    with pytest.raises(Rejected) as rejected:
        prove(edited(good, edit))
    finding = rejected.value.diagnostics[0]
    assert finding.code == code
    assert words in finding.message


def test_a_list_and_its_streams_are_of_one_length() -> None:
    good = emitted(linear(1), lists_at_random(linear(1), Random(0)))
    for streams in ((), good.streams[:1], (good.streams[0][:-1], good.streams[1])):
        with pytest.raises(Rejected) as rejected:
            prove(replace(good, streams=streams))
        assert rejected.value.diagnostics[0].code == "wrong-stream"


def test_a_schedule_without_streams_has_none() -> None:
    """A Spec whose stages are whole, with streams or awaits beside its instructions."""
    spec = specs.random_order(specs.linear(2, 2), Random(0))
    plan = communicate(arrange(expand(spec), Budget()))
    with pytest.raises(Rejected, match="the schedule has none"):
        prove(replace(plan, streams=tuple((0,) * len(own) for own in plan.ranks)))
    named = Await(Operation("F", 0, 0, 0))
    with pytest.raises(Rejected, match="the schedule has no streams"):
        prove(replace(plan, ranks=((*plan.ranks[0], named), *plan.ranks[1:])))


def test_a_limit_holds_at_any_speed_or_is_refused() -> None:
    """Without the awaits that keep memory within it, only other speeds than the planned ones break
    the limit."""
    told = 0
    for seed in range(60):
        random = Random(seed)
        spec = random_parts(random)
        lists = lists_at_random(spec, random)
        peak = max(prove(emitted(spec, lists)).claims.activations)
        spec = limited(spec, peak)
        try:
            prove(emitted(spec, lists, limits=False))
        except Rejected as rejected:
            finding = rejected.diagnostics[0]
            assert finding.code == "over-limit"
            assert "where streams run faster or slower than planned" in finding.message
            told += 1
    assert told


def test_of_what_one_thread_cannot_finish_it_is_said() -> None:
    """The streams of both ranks finish; issued by one thread, each in the list's sequence, they
    wait for each other."""
    found = 0
    for seed in range(60):
        random = Random(seed)
        spec = random_parts(random)
        lists = reissued(spec, lists_at_random(spec, random), random)
        try:
            prove(emitted(spec, lists))
        except Rejected as rejected:
            (finding,) = rejected.diagnostics
            assert finding.code == "deadlock"
            assert "one thread that runs the list" in finding.notes[-1]
            found += 1
    assert found
