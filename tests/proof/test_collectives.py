"""`reduce gradients` and `unshard weights` in a plan, broken on purpose: the proof refuses a list
exactly where a rule of three lines, which knows nothing of the proof, finds it wrong."""

from collections.abc import Iterator, Sequence
from functools import cache

import pytest
from msgspec.structs import replace

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.driver import compile_text
from stretto.compiler.library import read
from stretto.compiler.plan.plan import Plan
from stretto.compiler.problem.spec import StageTicks
from stretto.compiler.program.program import (
    BeginReduction,
    BeginUnshard,
    Compute,
    Instruction,
    Program,
    ProgramName,
    Reduce,
)
from stretto.compiler.proof.prove import prove
from tests.support.mutants import edited

NAMES = ("one_f_one_b", "zb_v", "dualpipe", "two_models")
Collective = BeginReduction | BeginUnshard


@cache
def plan_of(name: str) -> Plan:
    """The library's schedule with both statements."""
    text = read(name).text + "\nreduce gradients cost 3/2\nunshard weights cost 1 + s for stage s\n"
    return compile_text(text.replace("ranks 8", "ranks 2").replace("ranks 4", "ranks 2"), name)


def right(program: Program, rank: int, own: Sequence[Instruction]) -> bool:
    """Each of the rank's stages has each of the two once, in its place, and no other has."""
    spec, train = program.spec, program.name == "train"
    mine = {
        (p, s)
        for p, line in enumerate(spec.pipelines)
        for s, stage in enumerate(line.stages)
        if stage.rank == rank
    }
    wanted = sorted([("u", *place) for place in mine] + [("r", *p) for p in mine if train])
    found = [
        ("r" if isinstance(one, BeginReduction) else "u", one.pipeline, one.stage)
        for one in own
        if isinstance(one, Collective)
    ]
    if sorted(found) != wanted:
        return False
    for at, one in enumerate(own):
        place = (one.pipeline, one.stage) if isinstance(one, Collective) else None
        if isinstance(one, BeginUnshard):
            rest = own[:at]  # no computation of the stage
        elif isinstance(one, BeginReduction):
            rest = own[at:]  # nothing that adds to its gradients
        else:
            continue
        for other in rest:
            adds = isinstance(one, BeginUnshard) or getattr(other, "operation", "F")[0] in "BW"
            if adds and isinstance(other, Compute) and other.operation[1:3] == place:
                return False
            if isinstance(other, Reduce) and isinstance(one, BeginReduction):
                copies = program.reductions[other.reduction].copies
                if place in [copy[:2] for copy in copies]:
                    return False
    return True


def broken(program: Program, rank: int) -> Iterator[list[Instruction]]:
    """The rank's list with one of these instructions dropped, doubled, anywhere else, or of another
    stage."""
    own = list(program.ranks[rank])
    stages = [
        (p, s) for p, line in enumerate(program.spec.pipelines) for s in range(len(line.stages))
    ]
    for at, one in enumerate(own):
        if isinstance(one, Collective):
            rest = own[:at] + own[at + 1 :]
            yield rest
            yield [*own[: at + 1], *own[at:]]
            for to in range(len(own)):
                yield [*rest[:to], one, *rest[to:]]
            for stage in stages:
                yield [*own[:at], type(one)(*stage), *own[at + 1 :]]
    other = BeginReduction(*stages[0]) if program.name == "eval" else BeginUnshard(*stages[0])
    yield [*own, other]


def torn(own: Sequence[Instruction]) -> bool:
    """Whether one of them stands between the halves of an overlapped unit, which is refused for
    another reason."""
    open_ = -1
    for one in own:
        if isinstance(one, Compute):
            open_ = one.unit if one.unit != open_ else -1
        elif isinstance(one, Collective) and open_ != -1:
            return True
    return False


@pytest.mark.parametrize("name", NAMES)
def test_what_is_out_of_place_is_refused_and_nothing_else(name: str) -> None:
    plan = plan_of(name)
    programs: tuple[ProgramName, ...] = ("train", "eval")
    refused = accepted = 0
    for program in (plan.programs[each] for each in programs):
        for rank in range(program.spec.ranks):
            assert right(program, rank, program.ranks[rank])
            for own in broken(program, rank):
                wrong = torn(own) or not right(program, rank, own)
                try:
                    prove(edited(program, rank, own))
                except Rejected as rejected:
                    assert wrong, (rank, own)
                    codes = {one.code for one in rejected.diagnostics}
                    assert "wrong-collective" in codes or torn(own), codes
                    refused += 1
                else:
                    assert not wrong, (rank, own)
                    accepted += 1
    assert refused > 50 and accepted > 10  # both happen


def test_a_spec_that_leaves_out_a_stage_or_says_a_false_time_is_refused() -> None:
    plan = plan_of("one_f_one_b")
    program = plan.programs["train"]
    rows = program.spec.reduce_gradients
    for forged in (rows[1:], (*rows, rows[0]), (StageTicks(0, 0, -1), *rows[1:])):
        with pytest.raises(Rejected, match="reduce gradients"):
            prove(replace(program, spec=replace(program.spec, reduce_gradients=forged)))
    dearer = tuple(row._replace(ticks=row.ticks + 1) for row in rows)
    with pytest.raises(Rejected, match="claims `makespan`"):
        forged_spec = replace(program.spec, reduce_gradients=dearer)
        prove(replace(program, spec=forged_spec), plan.claims["train"])


def test_schedules_without_the_statements_have_none_of_it() -> None:
    source = read("dualpipe")
    plain = compile_text(source.text, source.name)
    with_both = plan_of("dualpipe")
    for name in plain.programs:
        assert not any(
            isinstance(one, Collective) for row in plain.programs[name].ranks for one in row
        )
    assert with_both.programs["train"].spec.order  # the same order, written
