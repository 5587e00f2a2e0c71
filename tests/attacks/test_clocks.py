"""Random files of every kind, through every engine: whatever they say, the answer is a plan or
diagnostics; and there is one clock. An engine counts with op classes, `check` with operations and
edges, the plan's times are `time(program)`'s or those that were planned, the proof has a run of its
own, the checker of certificates another, and the tests' clocks share nothing with any: all agree,
for the step and for its evaluation."""

from collections import Counter
from collections.abc import Callable, Iterator
from random import Random

import pytest

from stretto.compiler.certificate.checker.check import certify
from stretto.compiler.certificate.write import certificate
from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.driver import compile_text
from stretto.compiler.evaluation import evaluate
from stretto.compiler.language.parse import parse
from stretto.compiler.order import WRITTEN, Order
from stretto.compiler.order.arrange import arrange
from stretto.compiler.order.budget import Budget
from stretto.compiler.order.check import check
from stretto.compiler.order.engines.table import NAMES
from stretto.compiler.problem.computations import has_collectives
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Operation
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicate, communicated
from stretto.compiler.program.program import Claims, Compute, Program, ProgramName
from stretto.compiler.program.timeline import time
from stretto.compiler.program.whole import whole_order
from stretto.compiler.proof.prove import prove_all
from tests.attacks.conftest import Tally
from tests.support import specs
from tests.support.clocks import longest_paths
from tests.support.planned_streams import PlannedStreams
from tests.support.random_files import FEW, KINDS, kinds_of, random_file

NAMED: tuple[ProgramName, ...] = ("train", "eval")


def test_every_file_gets_an_answer_by_one_clock(
    attacks: Callable[[int, int], int], tally: Tally
) -> None:
    random, tried = Random("clocks"), attacks(60, 3000)
    compiled, clocks = Counter[str](), Counter[str]()
    engines = [None, *NAMES] if attacks(0, 1) else ["library", "list", "alternating", "offsets"]
    for _ in range(tried):
        text, engine = random_file(random), random.choice(engines)
        effort, whole = random.choice([0, 0, 0, 1]), random.random() < 0.2
        try:
            order = ordered(text, Budget(effort=effort, engine=engine), whole)
            programs = communicated(order, NAMED).programs
        except Rejected as rejected:
            assert rejected.diagnostics
            continue
        except BaseException:
            print(engine, text)
            raise
        claimed = {name: claims(*one) for name, one in programs.items()}
        try:
            proofs = prove_all({name: one.program for name, one in programs.items()})
        except Rejected as rejected:  # nobody but an author goes over his limit
            assert order.engine == WRITTEN or whole, (engine, text)
            assert {one.code for one in rejected.diagnostics} == {"over-limit"}, text
            continue
        for kind in {"files", *kinds_of(text)}:
            compiled[kind] += 1
        for name, one in programs.items():
            for clock, found in clocked(name, one.program, claimed[name], order):
                clocks[clock] += 1
                assert found == figures(claimed[name])[: len(found)], (clock, name, engine, text)
            assert proofs[name].claims == claimed[name], (name, engine, text)
    assert compiled["files"] > tried // 3
    assert tried < 1000 or all(compiled[kind] >= tried // 100 for kind in KINDS), compiled
    tally(tried=tried, compiled=compiled["files"], **clocks)
    print(dict(compiled))


def ordered(text: str, budget: Budget, whole: bool) -> Order:
    """The order of a file's operations; `whole`: its parts put together. Raises `Rejected`."""
    order = arrange(expand(evaluate(parse(Source("random.pipe", text)), FEW)), budget)
    return whole_order(order) if whole and order.problem.spec.parts else order


def figures(of: Claims) -> tuple[object, ...]:
    return tuple(getattr(of, key) for key in Claims.__struct_fields__)


def clocked(
    name: ProgramName, program: Program, claimed: Claims, order: Order
) -> Iterator[tuple[str, tuple[object, ...]]]:
    """By the name of a clock its makespan and span, or all the figures that it has."""
    timeline = time(program)
    yield "timeline", (timeline.makespan, timeline.span)
    yield "claims", figures(claims(program))
    if has_collectives(program.spec):
        return
    if program.spec.streams:
        yield "streams", PlannedStreams(program).figures()
    else:
        yield "paths", by_paths(name, order)
    if name == "train":
        outcome = check(order)
        yield "check", (outcome.makespan, outcome.span)
        checked = certify(certificate(program, claimed))
        yield "certificate", (checked["makespan"], checked["span"])


def by_paths(name: ProgramName, order: Order) -> tuple[int, int]:
    """Makespan and span by the longest paths of whole operations."""
    operations = order.problem.operations
    rows: list[list[tuple[Operation, ...]]] = [[] for _ in range(order.problem.spec.ranks)]
    for lane in order.lanes:
        for unit in lane.units:
            own = tuple(operations[i] for i in unit)
            rows[lane.rank].append(
                own if name == "train" else tuple(o for o in own if o.kind == "F")
            )
    times = longest_paths(specs.written(order.problem.spec, [[u for u in r if u] for r in rows]))
    spans = [
        max(times[o][1] for u in row for o in u) - min(times[o][0] for u in row for o in u)
        for row in rows
        if row
    ]
    return max((end for _, end in times.values()), default=0), max(spans, default=0)


@pytest.mark.parametrize("kind", ["I", "B"])
@pytest.mark.parametrize("engine", [None, "list"])
def test_pairs_that_need_a_split_backward_are_none_without_one(
    engine: str | None, kind: str
) -> None:
    text = f"""schedule five
        ranks 2  microbatches 4
        pipeline main {{ stages 2 place s -> 0 }}
        overlap F | {kind}"""
    problem = expand(evaluate(parse(Source("five.pipe", text)), FEW))
    order = arrange(problem, Budget(effort=0, engine=engine))
    outcome, clock = check(order), time(communicate(order))
    assert (outcome.makespan, outcome.span) == (clock.makespan, clock.span) == (24, 24)


@pytest.mark.parametrize("engine", [None, "list", "cpsat"])
def test_what_was_written_alone_gets_no_partner(engine: str | None) -> None:
    """Beside `order auto`: the search would have overlapped B main[0, 0] with another's forward."""
    text = """schedule alone
        ranks 1  microbatches 3
        pipeline main { stages 1 }
        pipeline side { stages 2  place s -> 0  feeds main[0]  forward only }
        overlap F | B
        limit activations <= 3
        order rank r { F main[0, 0]; B main[0, 0]; F side[1, 2]; F main[0, 2] }
        order auto"""
    plan = compile_text(text, "alone.pipe", FEW, Budget(effort=0, engine=engine))
    pairs = {
        str(one.operation)
        for one in plan.programs["train"].ranks[0]
        if isinstance(one, Compute) and one.unit >= 0
    }
    assert len(pairs) == 2  # of what was not written
