"""Random files of every kind, through every engine: whatever they say, the answer is a plan or
diagnostics; and each engine's clock is the Program's. An engine counts with op classes, `check`
with operations and edges, and the plan's times are `time(program)`'s: all three must agree."""

from collections.abc import Callable, Iterator
from random import Random

import pytest

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.evaluation import Settings, evaluate
from stretto.compiler.language.parse import parse
from stretto.compiler.order.arrange import arrange
from stretto.compiler.order.budget import Budget
from stretto.compiler.order.check import check
from stretto.compiler.order.engines.table import NAMES
from stretto.compiler.problem.expand import expand
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicate, forwards
from stretto.compiler.program.program import Program, ProgramName
from stretto.compiler.program.timeline import time
from stretto.compiler.proof.prove import prove_all
from tests.attacks.conftest import Tally

FEW = Settings(max_ops=3_000)


def file_of(random: Random) -> str:
    """A random schedule: some of every statement."""
    ranks, many = random.randint(1, 3), random.randint(1, 4)
    lines = [f"schedule random ranks {ranks} microbatches {many}"]
    pipelines = list(_pipelines(random, ranks, many))
    lines += [f"pipeline {name} {{ {words} }}" for name, words in pipelines]

    def some(chance: float, *statements: str) -> None:
        if random.random() < chance:
            lines.append(random.choice(statements))

    some(0.5, "split B into I, W")
    some(0.2, "split microbatch into 2 slices")
    for kind in "BI":
        some(0.35, f"overlap F | {kind}")
    costs = [0, 1, 1, 2, 3, 5]
    said = "\n".join(lines)
    kinds = "FIW" if "split B" in said else "FB"
    pairs = [f"F | {kind}" for kind in "BI" if f"overlap F | {kind}" in said]
    for kind in (*kinds, *pairs, "F[0, 0]", f"{kinds[1]}[0, 0]"):
        some(0.3, f"cost {kind} = {random.choice(costs)}", f"cost {kind} = 3/2")
    some(0.4, f"transfer {random.choice(costs)}")
    some(0.3, f"limit activations <= {random.randint(1, 6)}")
    some(0.2, "activation 2", "activation [s] = s + 1", "keep 1/2")
    some(0.2, "minimize span")
    some(0.15, "jitter 1/10")
    for _ in range(2):
        a, b = random.choice(kinds), random.choice(kinds)
        some(
            0.2,
            f"rule {a} main[0, 1] after {b} main[0, 0]",
            f"rule {a} main[0, 0] after {b} main[0, 1]",
        )
    some(
        0.4,
        "order auto",
        "order rank r { F }",
        "order rank r { repeat microbatches { F }  repeat microbatches { B } }",
        "order rank r { repeat microbatches { F }  repeat microbatches { I W } }",
        "order rank r { F; F | B }",
        "order rank r { repeat microbatches { F }  repeat microbatches { B } }\norder auto",
        "order rank r { if r == 0 { F } }\norder auto",
    )
    return "\n".join(lines) + "\n"


def _pipelines(random: Random, ranks: int, many: int) -> Iterator[tuple[str, str]]:
    stages = random.randint(1, 2 * ranks)
    place = random.choice([f"s -> s % {ranks}", f"s -> (s * 2 + 1) % {ranks}", "s -> 0"])
    kind = random.choice(["one", "one", "copies", "fed", "forward only"])
    own = f"stages {stages} place {place}"
    if kind == "copies" and many > 1:
        yield "main", f"{own} microbatches 1"
        yield "up", f"replicates main microbatches {many - 1} place s -> {ranks - 1} - s % {ranks}"
    elif kind == "fed":
        passing = random.choice(["", " forward only"])
        yield "main", own
        yield (
            "side",
            f"stages 2 place s -> s % {ranks} feeds main[{random.randrange(stages)}]{passing}",
        )
    else:
        yield "main", own + (" forward only" if kind == "forward only" else "")


def test_every_file_gets_an_answer_by_one_clock(
    attacks: Callable[[int, int], int], tally: Tally
) -> None:
    random, tried, compiled = Random("clocks"), 0, 0
    engines = [None, *NAMES] if attacks(0, 1) else ["library", "list", "alternating", "offsets"]
    while tried < attacks(40, 3000):
        tried += 1
        text = file_of(random)
        engine = random.choice(engines)
        try:
            spec = evaluate(parse(Source("random.pipe", text)), FEW)
            problem = expand(spec)
            order = arrange(problem, Budget(effort=random.choice([0, 0, 0, 1]), engine=engine))
            programs: dict[ProgramName, Program] = {
                "train": communicate(order),
                "eval": forwards(order),
            }
        except Rejected as rejected:
            assert rejected.diagnostics
            continue
        except BaseException:
            print(engine, text)
            raise
        compiled += 1
        outcome, clock = check(order), time(programs["train"])
        assert (outcome.makespan, outcome.span) == (clock.makespan, clock.span), (engine, text)
        prove_all(programs, {name: claims(program) for name, program in programs.items()})
    assert compiled > tried // 10
    tally(files=tried, compiled=compiled)


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
