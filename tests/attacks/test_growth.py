"""What a compile, a proof, a picture and an explanation cost grows as what they are of: four times
the ranks or micro-batches take four times the time of the processor, with slack, not sixteen."""

import gc
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from time import process_time

import pytest
from msgspec.structs import replace

from stretto.compiler.analysis.explanation import explain
from stretto.compiler.bounds.bound import bound
from stretto.compiler.driver import compile_text
from stretto.compiler.evaluation import Settings
from stretto.compiler.plan.plan import Plan
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Limit
from stretto.compiler.proof.prove import prove_all
from stretto.compiler.show import FORMATS, Look, draw
from tests.attacks.conftest import Tally

MOST = 8  # times as long, for four times as much: 4 where it is linear, 16 where quadratic

CHAIN = """\
schedule chain ranks 4 microbatches 2
pipeline main { stages ranks place s -> s }
order rank r { repeat microbatches { F }  repeat microbatches { B } }
"""
FULL = """\
schedule full ranks 4 microbatches 2
pipeline main { stages ranks place s -> s }
split B into I, W
overlap F | I
cost F | I = 3/2
limit activations <= microbatches
reduce gradients
unshard weights
rule F[s, 1] after F[s, 0] for s in 0 .. ranks
order rank r { repeat microbatches { F }  repeat microbatches { I; W } }
"""
IDLE = """\
schedule idle ranks 4 microbatches 2
pipeline main { stages 2 place s -> s }
order rank r { if r < 2 { repeat microbatches { F }  repeat microbatches { B } } }
"""
ACROSS = """\
schedule across ranks 4 microbatches 2
pipeline main { stages ranks place s -> s }
rule F[ranks - 1, m] after F[0, m] for m in 0 .. microbatches
rule B[0, m] after F[1, m] for m in 0 .. microbatches
order rank r { repeat microbatches { F }  repeat microbatches { B } }
"""
LATE = """\
schedule late ranks 2 microbatches 4
pipeline main { stages 2 place s -> s }
split B into I, W
cost F[1] = 5
limit activations <= microbatches
order rank r {
  if r == 0 { repeat microbatches { F }  repeat microbatches { I }  repeat microbatches { W } }
  else { repeat microbatches { F; I; W } } }
"""  # whatever rank 0 waits for, all that is behind could run
PARTS = LATE.replace("schedule late", "schedule parts split F into a, d on comm, b").replace(
    "cost F[1]", "cost F.a[1]"
)
PIPELINES = "schedule pipelines"  # `compiled` writes the rest
CASES = [  # a text, what grows, from where in `make test`, in `make test-attacks`
    (CHAIN, "ranks", 500, 2500),
    (CHAIN, "microbatches", 250, 6000),
    (FULL, "ranks", 250, 1000),
    (FULL, "microbatches", 250, 2500),
    (IDLE, "ranks", 4000, 16_000),
    (ACROSS, "microbatches", 500, 4000),
    (LATE, "microbatches", 250, 4000),
    (PARTS, "microbatches", 50, 500),
    (PIPELINES, "pipelines", 50, 250),
]
names = [f"{text.split()[1]}-{what}" for text, what, *_ in CASES]


def compiled(text: str, what: str, many: int) -> Plan:
    if text is PIPELINES:
        names = [f"p{k}" for k in range(many)]
        lines = [f"pipeline {name} {{ stages 2 microbatches 2 place s -> s }}" for name in names]
        order = "; ".join(f"F {n}[r]; F {n}[r]; B {n}[r]; B {n}[r]" for n in names)
        text = "\n".join(
            [
                "schedule pipelines ranks 2",
                f"microbatches {2 * many}",
                *lines,
                f"order rank r {{ {order} }}",
            ]
        )
        return compile_text(text, "grown.pipe")
    return compile_text(text, "grown.pipe", Settings(values={what: Fraction(many)}))


def grown(plan: Plan, what: str) -> int:
    """How many it has of what grows."""
    found = getattr(plan.programs["train"].spec, what)
    return len(found) if what == "pipelines" else int(found)


def drawn(format: str) -> Callable[[Plan], object]:
    return lambda plan: draw(plan, format, "train", Look(120, False))


def least(plan: Plan) -> object:
    """What `explain` asks: the bound of another order in the same memory."""
    spec, peaks = plan.programs["train"].spec, plan.claims["train"].activations
    limits = tuple(Limit(peak, 0) for peak in peaks)
    order = ("",) * spec.ranks
    return bound(expand(replace(spec, order=order, written=(), limits=limits)))


STEPS: dict[str, Callable[[Plan], object]] = {
    "prove": lambda plan: prove_all(plan.programs, plan.claims),
    "explain": lambda plan: explain(plan.programs["train"]),
    "bound": least,
    "text": drawn("text"),
    "svg": drawn("svg"),
    "html": drawn("html"),
    "json": drawn("json"),
    "trace": drawn("trace"),
    "torch-csv": drawn("torch-csv"),
}


def seconds(step: Callable[[Plan], object], plan: Plan, tries: int = 1) -> float:
    """Of the processor, for this process; the least of some tries."""
    found = []
    for _ in range(tries):
        gc.collect()
        gc.disable()
        before = process_time()
        step(plan)
        found.append(process_time() - before)
        gc.enable()
    return min(found)


@pytest.mark.parametrize(("text", "what", "few", "more"), CASES, ids=names)
def test_it_costs_as_much_as_it_has(
    text: str,
    what: str,
    few: int,
    more: int,
    attacks: Callable[[int, int], int],
    tally: Tally,
) -> None:
    small = compiled(text, what, 4)  # what a first time costs
    plans = [compiled(text, what, attacks(few, more) * k) for k in (1, 4)]
    steps = {"compile": lambda plan: compiled(text, what, grown(plan, what)), **STEPS}
    if text is not CHAIN:
        del steps["torch-csv"]
    if text is FULL and what == "ranks":  # in `bounds.context.EFFORT` every rank asks all classes
        del steps["bound"]
    took = {}
    for name, step in steps.items():
        step(small)
        little, much = (seconds(step, plan) for plan in plans)
        if much > MOST * little:  # is it so again?
            little, much = (seconds(step, plan, tries=3) for plan in plans)
        took[name] = little, much
    assert not {name: pair for name, pair in took.items() if pair[1] > max(MOST * pair[0], 0.3)}
    tally(
        of=4 * attacks(few, more), milliseconds=round(1000 * sum(pair[1] for pair in took.values()))
    )


def test_formats_are_all_known() -> None:
    """A new one is tried above, or for a reason is not: Graphviz takes no graph of that size."""
    assert set(FORMATS) == {*STEPS} - {"prove", "explain", "bound"} | {
        "dot",
        "primus",
        "zero-bubble",
    }


@pytest.mark.full
def test_rules_between_ranks_take_memory_for_messages_on_their_way_alone() -> None:
    """Eight times the micro-batches take eight times the memory, with slack: what ranks have heard
    of each other is a number per rank, let go of when it has arrived, not a bit per rule."""

    def peak(microbatches: int) -> int:
        text = f"""schedule rules ranks 8 microbatches {microbatches}
            pipeline main {{ stages ranks place s -> s }}
            rule B[s, m] after F[t, m]
              for s in 0 .. ranks, t in s + 1 .. ranks, m in 0 .. microbatches
            order rank r {{
              let warmup = min(microbatches, ranks - 1 - r)
              repeat warmup {{ F }}  repeat microbatches - warmup {{ F; B }}  repeat warmup {{ B }}
            }}"""
        plan = compile_text(text, "rules.pipe")
        tracemalloc.start()
        prove_all(plan.programs, plan.claims)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(800) < 10.5 * peak(100)
