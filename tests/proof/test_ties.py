"""Sums over ties: what a plan is with them, and that a broken one is refused."""

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from stretto.compiler import library
from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.driver import compile_file
from stretto.compiler.plan.plan import Plan, assemble, read_plan, write_plan
from stretto.compiler.problem.spec import Spec, Tie, TiedPlace
from stretto.compiler.program.claims import claims
from stretto.compiler.program.program import Program, Reduce, Reduction
from stretto.compiler.program.ties import with_ties
from stretto.compiler.proof import prove, prove_all
from tests.proof.test_mutation import SMALLEST, Tally
from tests.support.mutants import Mutant, edited, mutants


def first_and_last(spec: Spec, name: str = "embedding") -> tuple[Tie, ...]:
    """The first stage's parameter is the last one's, in every pipeline: on each rank that has
    both, they are one in memory."""
    places = [
        TiedPlace(p, s, f"part{s and 1}.weight")
        for p, pipeline in enumerate(spec.pipelines)
        for s in (0, len(pipeline.stages) - 1)
    ]
    holders: dict[int, list[TiedPlace]] = {}
    for place in sorted(set(places), key=lambda place: (place.stage, place.pipeline)):
        rank = spec.pipelines[place.pipeline].stages[place.stage].rank
        holders.setdefault(rank, []).append(place)
    return (Tie(name, tuple(tuple(holder) for holder in holders.values())),)


def tied(name: str, size: tuple[int, int] = (2, 2)) -> Plan:
    """A schedule of the library, as a runtime has it that found the tie."""
    plan = compile_file(name, ranks=size[0], microbatches=size[1])
    ties = first_and_last(next(iter(plan.programs.values())).spec)
    programs = {name: with_ties(program, ties) for name, program in plan.programs.items()}
    return assemble(programs, plan.claims, plan.bound, plan.engine, plan.sources)  # pyright: ignore[reportArgumentType]


def sizes(name: str) -> tuple[int, int]:
    return SMALLEST.get(name, (2, 2))


def refused(program: Program) -> str:
    with pytest.raises(Rejected) as rejected:
        prove(program)
    codes = {diagnostic.code for diagnostic in rejected.value.diagnostics}
    assert codes <= {"wrong-sum", "deadlock"}, codes
    return " / ".join(diagnostic.message for diagnostic in rejected.value.diagnostics)


WRITTEN = [name for name in library.names() if name != "v_half"]  # which is found by a search


@pytest.mark.parametrize("name", WRITTEN)
def test_a_tied_plan_is_proved_and_claims_what_it_did(name: str) -> None:
    plan = tied(name, sizes(name))
    proofs = prove_all(plan.programs, plan.claims)
    for key, program in plan.programs.items():
        assert claims(program) == plan.claims[key] == proofs[key].claims


def test_without_ties_nothing_changes() -> None:
    plan = compile_file("dualpipe", ranks=2, microbatches=4)
    assert with_ties(plan.programs["train"], ()) is plan.programs["train"]


def test_a_tied_plan_is_written_and_read(tmp_path: object) -> None:
    plan = tied("dualpipe", (2, 4))
    path = f"{tmp_path}/plan.jsonl"
    write_plan(plan, path)
    found = read_plan(path)
    assert found.hash == plan.hash != compile_file("dualpipe", ranks=2, microbatches=4).hash
    assert found.programs["train"].reductions == plan.programs["train"].reductions
    assert found.programs["eval"].spec.ties == plan.programs["train"].spec.ties
    with pytest.raises(ValueError, match="other ties"):
        with_ties(found.programs["train"], first_and_last(found.programs["train"].spec, "other"))


def test_a_tie_of_one_memory_needs_no_sum() -> None:
    """Both ends of a V are on one rank, and share one parameter there."""
    plan = tied("zb_v", (2, 4))
    program = plan.programs["train"]
    assert len(program.spec.ties[0].holders) == 1
    assert program.reductions == ()
    prove_all(plan.programs, plan.claims)


# ---------------------------------------------------------------------------- broken


def around_sums(program: Program) -> Iterator[Mutant]:
    """Every mutant of a sum, and of what stands right before one."""
    for rank, own in enumerate(program.ranks):
        for i, one in enumerate(own):
            if isinstance(one, Reduce) or (i + 1 < len(own) and isinstance(own[i + 1], Reduce)):
                yield from mutants(program, rank, i)


@pytest.mark.parametrize(
    "name", ["one_f_one_b", "zb_h1", "dualpipe", "chimera", "interleaved_1f1b"]
)
def test_broken_sums_are_refused_or_harmless(name: str) -> None:
    plan = tied(name, sizes(name))
    tally = Tally(states=300)
    for mutant in around_sums(plan.programs["train"]):
        good, claimed = plan.programs["train"], plan.claims["train"]
        tally.judge(good, claimed, mutant.kind, f"{name}: {mutant}", mutant.program)
    tally.check(name)
    assert tally.refused["drop reduce"] and not tally.harmless["drop reduce"]
    assert tally.refused["double reduce"] and not tally.harmless["double reduce"]


def test_too_early() -> None:
    program = tied("one_f_one_b").programs["train"]
    own = list(program.ranks[0])
    i = max(k for k, one in enumerate(own) if type(one).__name__ == "Compute")
    early = [*own[:i], own[-1], *own[i:-1]]
    assert "come later" in refused(edited(program, 0, early))


def test_in_another_order_than_others() -> None:
    """Two ties whose sums one rank runs the other way round: they wait for each other."""
    program = compile_file("one_f_one_b", ranks=2, microbatches=2).programs["train"]
    (one,) = first_and_last(program.spec)
    places = [place._replace(name=f"{place.name}2") for place in one.places]
    program = with_ties(program, (one, Tie("second", tuple((place,) for place in places))))
    prove(program)
    own = list(program.ranks[0])
    assert "wait for each other" in refused(edited(program, 0, [*own[:-2], own[-1], own[-2]]))


def with_table(program: Program, reduction: Reduction) -> Program:
    return replace(program, reductions=(*program.reductions[:-1], reduction))


def test_the_table_is_that_of_the_ties() -> None:
    program = tied("dualpipe", (2, 4)).programs["train"]
    last = program.reductions[-1]
    for broken in (
        replace(last, copies=last.copies[::-1]),
        replace(last, copies=last.copies[:-1]),
        replace(last, tie="another"),
        replace(last, tie=""),
    ):
        assert "no such copies" in refused(with_table(program, broken))
    dropped = replace(program, reductions=program.reductions[:-1])
    lists = [tuple(one for one in own if one != Reduce(2)) for own in program.ranks]
    assert "is missing" in refused(replace(dropped, ranks=tuple(lists)))


def test_ties_are_whole() -> None:
    program = tied("dualpipe", (2, 4)).programs["train"]
    (tie,) = program.spec.ties
    first, second = tie.holders

    def broken(*ties: Tie) -> str:
        return refused(replace(program, spec=replace(program.spec, ties=ties)))

    assert "is tied twice" in broken(tie, replace(tie, name="again"))
    assert "another tie has this name" in broken(tie, tie)
    assert "are not on one rank" in broken(replace(tie, holders=(first + second,)))
    assert "a copy, is not tied" in broken(replace(tie, holders=(first,)))
    assert "several places" in broken(replace(tie, holders=(first[:1],)))
    assert "no such copies" in broken(replace(tie, holders=(second, first)))
