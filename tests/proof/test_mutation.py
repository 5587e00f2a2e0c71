"""Good plans, broken on purpose: every mutant is refused by the proof, or shown harmless by the
explorer, which knows nothing of the proof (same data flow, same peaks, same slots in every
interleaving). What is neither is a survivor; there must be none.

From every schedule of the library: each instruction dropped, doubled, exchanged with its
neighbour, moved to another rank, or made to name another slot, channel, operation, unit or sum;
two such edits at once; and headers forged (limits, sizes, costs, claims, orders). All instructions
at the smallest size; a fixed sample beyond, all of them in `make test-full`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from random import Random

import pytest
from msgspec.structs import replace

from stretto.compiler import library
from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.driver import compile_file
from stretto.compiler.plan.plan import Plan
from stretto.compiler.problem.spec import Limit, Spec
from stretto.compiler.program.program import Claims, Program, ProgramName
from stretto.compiler.proof.prove import prove
from tests.support.library import IN_PARTS
from tests.support.mutants import Mutant, harmless, mutants, random_mutant

Found = Iterable[tuple[ProgramName, Mutant]]  # which program of the plan, broken how

TWO_WAYS: tuple[str, ...] = ("dualpipe", "dualpipe_v", "deepseek_v3", "deepseek_v3_v")
SMALLEST: dict[str, tuple[int, int]] = dict.fromkeys(
    TWO_WAYS, (2, 4)
)  # ranks, micro-batches; else (2, 2)
LARGER = {name: (3, 6) if name.endswith("_v") else (4, 8) for name in TWO_WAYS}  # else (4, 4)
LARGEST = {name: (4, 8) if name.endswith("_v") else (6, 12) for name in TWO_WAYS}  # else (4, 8)
WHOLE = [name for name in library.names() if name not in IN_PARTS]  # parts: `test_stream_mutation`
FEW_STATES, MANY_STATES = 300, 20_000  # beyond, some interleavings take the place of all


@dataclass
class Tally:
    """What became of the mutants, by kind."""

    refused: Counter[str] = field(default_factory=Counter)
    harmless: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    survivors: list[str] = field(default_factory=list)
    states: int = MANY_STATES

    def judge(self, good: Program, claims: Claims, kind: str, where: str, broken: Program) -> None:
        try:
            prove(broken, claims)
        except Rejected as rejected:
            self.refused[kind] += 1
            self.codes[rejected.diagnostics[0].code] += 1
            return
        difference = harmless(good, broken, self.states)
        if difference:
            self.survivors.append(f"{where}: {difference}")
        else:
            self.harmless[kind] += 1

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.refused + other.refused,
            self.harmless + other.harmless,
            self.codes + other.codes,
            self.survivors + other.survivors,
        )

    def check(self, what: str) -> None:
        """Print the counts; no survivor may be among them."""
        refused, kept = self.refused.total(), self.harmless.total()
        print(f"{what}: {refused} refused, {kept} harmless, {len(self.survivors)} survivors")
        print("  refused by", dict(self.codes.most_common()))
        print("  harmless:", dict(self.harmless.most_common()))
        print(*self.survivors[:20], sep="\n")
        assert refused > 0
        assert not self.survivors


def compiled(name: str, size: tuple[int, int]) -> Plan:
    return compile_file(name, ranks=size[0], microbatches=size[1])


def places(program: Program) -> Iterator[tuple[int, int]]:
    for rank, own in enumerate(program.ranks):
        for i in range(len(own)):
            yield rank, i


def single(program: Program) -> Iterator[Mutant]:
    """Every mutant of every instruction."""
    for rank, i in places(program):
        yield from mutants(program, rank, i)


def sample(program: Program, many: int, edits: int, random: Random) -> Iterator[Mutant]:
    """Mutants with so many edits at once."""
    for _ in range(many):
        broken, done = program, list[Mutant]()
        for _ in range(edits):
            done.append(random_mutant(broken, random))
            broken = done[-1].program
        kind = done[0].kind if edits == 1 else f"{edits} edits"
        yield Mutant(kind, broken, " and ".join(map(str, done)))


def judged(name: str, plan: Plan, found: Found, states: int = MANY_STATES) -> Tally:
    tally = Tally(states=states)
    for program, mutant in found:
        good, claims = plan.programs[program], plan.claims[program]
        where = f"{name}, {program}: {mutant}"
        tally.judge(good, claims, mutant.kind, where, mutant.program)
    return tally


# ---------------------------------------------------------------------------- instructions


@pytest.mark.parametrize("name", WHOLE)
def test_every_instruction_of_the_smallest_plans(name: str) -> None:
    plan = compiled(name, SMALLEST.get(name, (2, 2)))
    which: ProgramName = "train" if "train" in plan.programs else "eval"
    found: Found = ((which, mutant) for mutant in single(plan.programs[which]))
    judged(name, plan, found).check(name)


@pytest.mark.parametrize("edits", [1, 2])
def test_a_sample_of_larger_plans(edits: int) -> None:
    total = Tally()
    found: Found
    for name in WHOLE:
        plan = compiled(name, LARGER.get(name, (4, 4)))
        random = Random(f"{name} {edits}")
        for p, program in plan.programs.items():
            found = ((p, mutant) for mutant in sample(program, 30, edits, random))
            total += judged(name, plan, found, FEW_STATES)
    total.check(f"a sample, {edits} at once")


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", WHOLE)
def test_every_instruction_of_larger_plans(name: str) -> None:
    """Of the largest, every eleventh mutant."""
    found: Found
    twice: Found
    for sizes, default, every in (
        (SMALLEST, (2, 4), 1),
        (LARGER, (4, 4), 1),
        (LARGEST, (4, 8), 11),
    ):
        plan = compiled(name, sizes.get(name, default))
        for p, program in plan.programs.items():
            found = ((p, mutant) for mutant in islice(single(program), 0, None, every))
            judged(name, plan, found, FEW_STATES).check(f"{name}, {p}, {plan.hash[:8]}")
        twice = ((p, m) for p, g in plan.programs.items() for m in sample(g, 300, 2, Random(1)))
        judged(name, plan, twice, FEW_STATES).check(f"{name}, two at once")


# ---------------------------------------------------------------------------- headers


def forged(plan: Plan, name: ProgramName) -> Iterator[tuple[str, Program, Claims]]:
    """The program with one number or text of its header changed."""
    program, claims = plan.programs[name], plan.claims[name]
    spec = program.spec

    def with_spec(**changes: object) -> Program:
        return replace(program, spec=replace(spec, written=(), **changes))

    for key in Claims.__struct_fields__:
        value = getattr(claims, key)
        for step in (-1, 1):
            if isinstance(value, int):
                yield f"claim {key}", program, replace(claims, **{key: value + step})
                continue
            for rank in range(spec.ranks):
                changed = (*value[:rank], value[rank] + step, *value[rank + 1 :])
                yield f"claim {key}", program, replace(claims, **{key: changed})
    for rank, peak in enumerate(claims.activations):
        for grains in (peak - 1, peak, peak + 1):
            limits = tuple(Limit(grains, 0) if r == rank else None for r in range(spec.ranks))
            yield f"limit {grains - peak:+}", with_spec(limits=limits), claims
        order = tuple("0" * 16 if r == rank else text for r, text in enumerate(spec.order))
        yield "order", with_spec(order=order), claims
    yield "overlap", with_spec(overlap=()), claims
    yield "transfers", with_spec(transfers=()), claims
    yield "pairs", with_spec(pairs=()), claims
    yield "slices", with_spec(slices=spec.slices + 1), claims
    yield "unit of time", with_spec(time_unit=spec.time_unit + 1), claims
    for changes in _pipelines(spec):
        yield changes[0], with_spec(pipelines=changes[1]), claims


def _pipelines(spec: Spec) -> Iterator[tuple[str, tuple[object, ...]]]:
    for p, pipeline in enumerate(spec.pipelines):
        head, tail = spec.pipelines[:p], spec.pipelines[p + 1 :]
        for key in ("microbatches", "first"):
            for step in (-1, 1):
                other = replace(pipeline, **{key: getattr(pipeline, key) + step})
                yield key, (*head, other, *tail)
        yield "forward only", (*head, replace(pipeline, forward_only=True), *tail)
        yield "replicates", (*head, replace(pipeline, replicates=-1), *tail)
        for s, stage in enumerate(pipeline.stages):
            for key in ("rank", "F", "B", "I", "W", "activation", "kept"):
                for step in (-1, 1):
                    changed = replace(stage, **{key: getattr(stage, key) + step})
                    stages = (*pipeline.stages[:s], changed, *pipeline.stages[s + 1 :])
                    yield f"stage {key}", (*head, replace(pipeline, stages=stages), *tail)


def test_forged_headers() -> None:
    total = Tally()
    for name in WHOLE:
        plan = compiled(name, SMALLEST.get(name, (2, 2)))
        for p, program in plan.programs.items():
            for kind, broken, claims in forged(plan, p):
                total.judge(program, claims, kind, f"{name}, {p}: {kind}", broken)
    total.check("headers")
