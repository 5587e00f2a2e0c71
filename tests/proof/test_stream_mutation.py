"""Good Programs with streams, broken on purpose, as in `test_mutation`: awaits dropped, doubled,
moved, exchanged and made to name something else, instructions on other streams, and all that can be
done to others; and every number of the Spec's parts forged. Every mutant is refused, or shown
harmless by the explorer of streams. There must be no survivor.

The Programs are the compiler's: of random Specs and random orders, so that they are proved, with
their claims, is a test of both; and of the library's schedules with parts, and one with all that a
plan of parts may have.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from random import Random

import pytest
from msgspec.structs import replace

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.driver import compile_file, compile_text
from stretto.compiler.order import Order
from stretto.compiler.order.budget import Budget
from stretto.compiler.plan.plan import Plan
from stretto.compiler.problem.spec import Part, Spec
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicate, forwards
from stretto.compiler.program.program import Claims, Program, ProgramName
from stretto.compiler.proof.prove import prove, prove_all
from tests.proof.test_mutation import FEW_STATES, Tally, judged, sample, single
from tests.proof.test_mutation import forged as forged_headers
from tests.support.explorer import CAPACITIES, FINISH
from tests.support.library import IN_PARTS
from tests.support.mutants import Mutant
from tests.support.part_programs import as_order, lists_at_random
from tests.support.part_specs import costly, limited, random_parts, ruled
from tests.support.planned_streams import PlannedStreams
from tests.support.stream_explorer import explore_streams


def ordered(seed: int, *, ranks: int = 2, microbatches: int = 1, longest: int = 3) -> Order:
    """A random order of a random Spec, half the time with a rule and a cost of one operation; two
    times of three memory is limited to what it needs."""
    random = Random(seed)
    spec = random_parts(
        random, ranks=ranks, microbatches=microbatches, longest=random.randint(2, longest)
    )
    lists = lists_at_random(spec, random)
    rows = [row for row in lists if len(row) > 1]
    if rows and random.random() < 1 / 2:
        own = random.choice(rows)
        earlier, later = sorted(random.sample(range(len(own)), 2))
        spec = ruled(spec, own[later], own[earlier])
        spec = costly(spec, random.choice(own), random.randint(0, 4))
    order = as_order(spec, lists)
    if random.random() < 2 / 3:
        peaks = claims(communicate(order)).activations
        order = as_order(limited(spec, max(peaks)), lists)
    return order


def both(order: Order) -> dict[ProgramName, Program]:
    return {"train": communicate(order), "eval": forwards(order)}


def proved(order: Order) -> None:
    """Prove step and evaluation, with what is claimed of them, which an independent clock claims
    too."""
    programs = both(order)
    claimed: dict[ProgramName, Claims] = {
        name: claims(program) for name, program in programs.items()
    }
    prove_all(programs, claimed)
    for name, program in programs.items():
        assert PlannedStreams(program).figures() == figures(claimed[name])


def figures(claimed: Claims) -> tuple[object, ...]:
    return tuple(getattr(claimed, key) for key in Claims.__struct_fields__)


def test_what_the_compiler_makes_of_random_orders_is_proved() -> None:
    for seed in range(60):
        random = Random(seed)
        ranks, microbatches = random.choice([2, 2, 3]), random.randint(1, 3)
        proved(ordered(seed, ranks=ranks, microbatches=microbatches, longest=5))


def test_and_finishes_in_every_interleaving_within_its_limits() -> None:
    for seed in range(12):
        for program in both(ordered(seed)).values():
            for together in (False, True):
                for capacity in CAPACITIES:
                    assert explore_streams(program, capacity, together=together) == {FINISH}


def mutated(seeds: range, edits: int = 1) -> Tally:
    total = Tally(states=FEW_STATES)
    for seed in seeds:
        for name, good in both(ordered(seed)).items():
            claimed, random = claims(good), Random(seed)
            found = single(good) if edits == 1 else sample(good, 60, edits, random)
            for mutant in found:
                where = f"seed {seed}, {name}: {mutant}"
                total.judge(good, claimed, mutant.kind, where, mutant.program)
    return total


def test_every_instruction_of_small_programs() -> None:
    total = mutated(range(3))
    total.check("streams")
    assert total.refused["drop await"] and total.refused["double await"]
    assert total.codes["unordered-streams"] > 10


def test_several_edits_at_once() -> None:
    mutated(range(8), edits=2).check("streams, two edits at once")


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("edits", [1, 2, 3])
def test_many_more(edits: int) -> None:
    for seed in range(300):
        proved(ordered(seed, ranks=3, microbatches=2, longest=6))
    mutated(range(5, 60), edits).check(f"streams, {edits} edits at once")


# ---------------------------------------------------------------------------- plans


MIXED = """\
schedule mixed
ranks 2
microbatches 2
split F[s] into a if s == 0, 2 * (b, c on comm), d on comm
split B into I, W
pipeline main { stages 3  place s -> s % 2 }
cost F.b[1] = 2
cost I.c = 3
transfer 1
activation F.b = 1/2
activation after I = 1/2
limit activations <= 5
rule F.a[0, 1] after I.c[2, 0, layer 0]
order auto
"""
"""Layers, a stage with a part more, two stages on one rank, memory by part, a limit and a rule."""


def library_and_more(name: str) -> Plan:
    """At the smallest size."""
    if name == "mixed":
        return compile_text(MIXED, "mixed.pipe", budget=Budget(effort=0))
    return compile_file(name, ranks=2, microbatches=2 if name == "moe_1f1b" else 4)


def of_plan(name: str, every: int, twice: int) -> Tally:
    """Every so manieth mutant of every instruction, so many with two edits, and forged headers."""
    plan, random, total = library_and_more(name), Random(name), Tally()
    found: Iterable[tuple[ProgramName, Mutant]]
    for p, program in plan.programs.items():
        found = ((p, one) for one in islice(single(program), random.randrange(every), None, every))
        total += judged(name, plan, found, FEW_STATES)
        found = ((p, one) for one in sample(program, twice, 2, random))
        total += judged(name, plan, found, FEW_STATES)
        headers = Tally(states=FEW_STATES)
        for kind, broken, claimed in forged_headers(plan, p):
            headers.judge(program, claimed, kind, f"{name}, {p}: {kind}", broken)
        total += headers
    total.check(name)
    return total


@pytest.mark.parametrize("name", [*sorted(IN_PARTS), "mixed"])
def test_plans_of_parts(name: str) -> None:
    of_plan(name, every=29, twice=30)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [*sorted(IN_PARTS), "mixed"])
def test_every_instruction_of_plans_of_parts(name: str) -> None:
    total = of_plan(name, every=1, twice=2000)
    assert total.refused["drop await"] and total.codes["unordered-streams"]


# ---------------------------------------------------------------------------- headers


def forged(spec: Spec) -> Iterator[tuple[str, Spec]]:
    """The Spec with one number of its parts changed."""
    yield "split", replace(spec, split_backward=not spec.split_backward)
    yield "a stream more", replace(spec, streams=(*spec.streams, "another"))
    yield "a stream less", replace(spec, streams=spec.streams[:-1])
    yield "no streams", replace(spec, streams=())
    yield "no parts", replace(spec, parts=())
    yield "slices", replace(spec, slices=2)
    for p, line in enumerate(spec.pipelines):
        for s, (stage, chain) in enumerate(zip(line.stages, spec.parts[p], strict=True)):
            for x, (rows, part) in enumerate(zip(stage.parts, chain, strict=True)):
                for key in rows._fields:
                    for step in (-1, 1):
                        changed = rows._replace(**{key: getattr(rows, key) + step})
                        parts = (*stage.parts[:x], changed, *stage.parts[x + 1 :])
                        yield f"{key} of a part", with_stage(spec, p, s, parts=parts)
                        if key != "activation":
                            total = {key: getattr(stage, key) + step}
                            both_ = with_stage(spec, p, s, parts=parts, **total)
                            yield f"{key} of a part and its stage", both_
                for stream in range(len(spec.streams) + 1):
                    if stream != part.stream:
                        yield (
                            "stream of a part",
                            with_chain(
                                spec,
                                p,
                                s,
                                (*chain[:x], part._replace(stream=stream), *chain[x + 1 :]),
                            ),
                        )
                yield "a part less", with_chain(spec, p, s, chain[:x] + chain[x + 1 :])
            yield "a part more", with_chain(spec, p, s, (*chain, chain[-1]))
            for key in ("rank", "F", "B", "I", "W", "activation", "kept"):
                for step in (-1, 1):
                    yield (
                        f"stage {key}",
                        with_stage(spec, p, s, **{key: getattr(stage, key) + step}),
                    )


def with_stage(spec: Spec, p: int, s: int, **changes: object) -> Spec:
    line = spec.pipelines[p]
    changed = replace(line.stages[s], **changes)
    line = replace(line, stages=(*line.stages[:s], changed, *line.stages[s + 1 :]))
    return replace(spec, pipelines=(*spec.pipelines[:p], line, *spec.pipelines[p + 1 :]))


def with_chain(spec: Spec, p: int, s: int, chain: tuple[Part, ...]) -> Spec:
    own = (*spec.parts[p][:s], chain, *spec.parts[p][s + 1 :])
    return replace(spec, parts=(*spec.parts[:p], own, *spec.parts[p + 1 :]))


def test_forged_parts() -> None:
    """Where it is proved, the clock and the peaks of the forged Spec are what is claimed."""
    told: Counter[str] = Counter()
    for seed in range(12):
        good = communicate(ordered(seed, microbatches=2))
        claimed = claims(good)
        for kind, spec in forged(good.spec):
            broken = replace(good, spec=spec)
            try:
                prove(broken, claimed)
            except Rejected as rejected:
                told[rejected.diagnostics[0].code] += 1
                continue
            told[f"harmless {kind}"] += 1
            assert PlannedStreams(broken).figures() == figures(claimed), (seed, kind)
    print(dict(told.most_common()))
    assert told["wrong-size"] and told["wrong-stream"] and told["false-claim"]
