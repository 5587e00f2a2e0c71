"""Costs as programs print them: exact while a common denominator fits, else rounded, once, and
within what is promised. What is right is worked out here with fractions, from the texts."""

import random
from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from time import monotonic

import pytest
from msgspec.structs import replace

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.driver import compile_text
from stretto.compiler.evaluation import Settings, evaluate
from stretto.compiler.language.parse import parse, parse_costs
from stretto.compiler.order.budget import Budget
from stretto.compiler.plan.plan import Plan, assemble, read_plan, write_plan
from stretto.compiler.problem.figures import figure, size_figure
from stretto.compiler.problem.spec import Spec
from stretto.compiler.program.program import Program, ProgramName
from stretto.compiler.verify import verify

HEAD = "schedule example\nranks 4\nmicrobatches 8\npipeline main { }\n"
PRINTED = ("18522.083749271637", "9261.0418746358", "27783.12562390745", "9.1e3")


def spec(text: str, costs: str = "") -> Spec:
    """The Spec of a file with these statements, and of a file of costs beside it."""
    file = parse_costs(Source("costs.pipe", costs)) if costs else None
    return evaluate(parse(Source("example.pipe", HEAD + text)), Settings(costs=file))


def within(found: Iterable[int], unit: int, wanted: Iterable[Fraction]) -> bool:
    """Whether every figure is at most half of 2^-40 of the largest from what was written."""
    wanted = list(wanted)
    most = max(wanted) / 2**41
    return all(abs(Fraction(n, unit) - x) <= most for n, x in zip(found, wanted, strict=True))


def plan(text: str) -> Plan:
    return compile_text(HEAD + text, "example.pipe", None, Budget(effort=0))


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e3", 1000), ("1.2e-05", Fraction(12, 10**6)), ("2.5E+2", 250), ("7e0", 7)],
)
def test_a_number_may_have_an_exponent(text: str, value: Fraction) -> None:
    made = spec(f"cost F = {text}\ncost B = 1\n")
    assert Fraction(made.pipelines[0].stages[0].F, made.time_unit) == value
    assert not made.rounded


@pytest.mark.parametrize("text", ["1e999999999", "1e-999999999", "3E+301", "1" + "0" * 301])
def test_an_exponent_beyond_all_measure_is_refused_at_once(text: str) -> None:
    before = monotonic()
    with pytest.raises(Rejected, match="this number has"):
        spec(f"cost F = {text}\n")
    assert monotonic() - before < 60


def test_what_has_a_common_denominator_that_fits_is_exact() -> None:
    exact = spec("cost F = 0.1234567890123\ncost B = 1/3\n")
    assert exact.time_unit == 3 * 10**13
    assert not exact.rounded
    largest = spec(f"cost F = {2**53}\ncost B = 1\n")
    assert (largest.time_unit, largest.rounded) == (1, {})
    assert spec(f"cost F = {2**53}\ncost B = 1/2\n").rounded  # one unit finer, and it fits no more


def test_what_does_not_is_rounded_and_the_finest_is_named() -> None:
    statements = [f"cost {kind}[{s}] = {value}" for s, value in enumerate(PRINTED) for kind in "FB"]
    made = spec("", "\n".join(statements))
    stages = made.pipelines[0].stages
    assert within((x.F for x in stages), made.time_unit, map(Fraction, PRINTED))
    assert made.time_unit == 2**26  # 2^40 / 27783 rounded up to a power of two
    place = made.spans[made.rounded["times"]]
    assert (place.file, place.line) == ("costs.pipe", 1)
    assert set(made.rounded) == {"times"}  # the sizes are 1, and stay so
    assert made.size_unit == 1


def test_random_costs_are_within_what_is_promised() -> None:
    chance = random.Random(5)
    for _ in range(60):
        scale = 10.0 ** chance.randint(-6, 9)
        texts = [repr(chance.random() * scale) for _ in range(4)]
        text = "".join(f"cost F[{s}] = {x}\ncost B[{s}] = 2\n" for s, x in enumerate(texts))
        made = spec(text)
        ticks = [x.F for x in made.pipelines[0].stages]
        wanted = [Fraction(x) for x in texts]
        if not made.rounded:
            assert [Fraction(n, made.time_unit) for n in ticks] == wanted
            continue
        most = max(*wanted, Fraction(2)) / 2**41
        found = [Fraction(n, made.time_unit) for n in ticks]
        assert all(abs(a - b) <= most for a, b in zip(found, wanted, strict=True))
        order = sorted(range(4), key=lambda k: wanted[k])
        assert all(ticks[a] <= ticks[b] for a, b in pairwise(order))


def test_what_follows_from_costs_follows_from_the_rounded_ones() -> None:
    made = spec(
        "split B into I, W\noverlap F | B\ncost F = 18522.083749271637\n"
        "cost I = 9261.0418746358193\n"
        "cost W = 4630.5209373179097\ncost F | B = (F + B) * 9 / 10\ncost F[1, m] = "
        "18522.083749271637 for m in 0 .. 2\ncost F[2, 1] = 1.00000000000000001\n"
        "transfer 3.14159265358979323\n"
    )
    stage = made.pipelines[0].stages[0]
    assert stage.B == stage.I + stage.W
    assert [o.stage for o, _ in made.exceptions] == [2]  # those of stage 1 differ in nothing
    whole = Fraction(stage.F + stage.B) * 9 / 10
    assert all(abs(pair.ticks - whole) <= Fraction(1, 2) for pair in made.pairs)
    assert len(made.pairs) == 4
    assert {t.ticks for t in made.transfers} == {
        round(Fraction("3.14159265358979323") * made.time_unit)
    }


def test_costs_of_parts_and_pairs_of_them_are_rounded_too(tmp_path: Path) -> None:
    text = (
        "split F into 2 * (mlp, a2a on comm)\nsplit B into I, W\n"
        "cost F.mlp = 1852.2083749271637\ncost F.a2a = 926.10418746358193\n"
        "cost I.mlp = 1700.0000000000001\ncost W.mlp = 900.12345678901234\n"
        "activation F.mlp = 0.12345678901234567891\n"
        "order rank r {\n let w = ranks - r\n repeat w { F }\n"
        "repeat 8 - w { F | B }\n repeat w { B }\n}"
    )
    made = spec(text)
    assert set(made.rounded) == {"times", "sizes"}
    parts = made.pipelines[0].stages[0].parts
    stage = made.pipelines[0].stages[0]
    for kind in "FIW":
        assert sum(getattr(part, kind) for part in parts) == getattr(stage, kind)
    written = map(Fraction, ("1852.2083749271637", "926.10418746358193"))
    assert within((part.F for part in parts[:2]), made.time_unit, written)
    pair = made.joined[0]
    assert sum(pair.load) == stage.F + stage.I + stage.W
    assert max(pair.load) <= pair.span <= sum(pair.load)
    write_plan(plan(text), tmp_path / "parts.plan")
    read = verify(read_plan(tmp_path / "parts.plan"))
    assert read.programs["train"].spec.rounded == made.rounded


def test_a_limit_that_is_just_enough_stays_enough() -> None:
    each = "1.23456789012345678 GiB"
    made = spec(f"activation = {each}\nlimit activations <= 3 * {each}\n")
    limit = made.limits[0]
    assert limit is not None
    assert set(made.rounded) == {"sizes"}
    assert 0 <= limit.grains - 3 * made.pipelines[0].stages[0].activation <= 3


def test_small_costs_are_as_precise_and_defaults_that_do_not_run_are_no_measure() -> None:
    made = spec("cost F = 1.2345678901234567e-05\ncost B = 2.3456789012345678e-05\n")
    stage = made.pipelines[0].stages[0]
    written = (Fraction("1.2345678901234567e-05"), Fraction("2.3456789012345678e-05"))
    assert within((stage.F, stage.B), made.time_unit, written)
    assert stage.B >= 2**40


def test_what_cannot_be_rounded_is_an_error_in_the_file_where_it_stands() -> None:
    small = "cost F = 1.2345678901234567e-20\ncost B = 1.1e-30\n"
    with pytest.raises(Rejected) as caught:
        spec("", small)
    found = caught.value.diagnostics
    assert [(d.code, d.labels[0].span.file, d.labels[0].span.line) for d in found] == [
        ("too-large", "costs.pipe", 1)
    ]


def test_a_plan_says_so_and_verify_comes_to_the_same(tmp_path: Path) -> None:
    text = "".join(f"cost F[{s}] = {x}\n" for s, x in enumerate(PRINTED)) + "transfer 1.2e-05\n"
    text += "order rank r { repeat microbatches { F }  repeat microbatches { B } }\n"
    write_plan(plan(text), tmp_path / "made.plan")
    made = read_plan(tmp_path / "made.plan")
    assert verify(made).programs["train"].spec.rounded == made.programs["train"].spec.rounded
    for wrong in ({}, {"times": 0}, {**made.programs["train"].spec.rounded, "sizes": 0}):
        own: dict[ProgramName, Program] = {
            name: replace(program, spec=replace(program.spec, rounded=wrong))
            for name, program in made.programs.items()
        }
        false = assemble(own, made.claims, made.bound, made.engine, made.sources)
        with pytest.raises(Rejected, match="it has other roundings"):
            verify(false)


@pytest.mark.parametrize(
    ("text", "unit", "told"),
    [
        ("activation = 10 GiB\n", "GiB", "10 GiB"),
        (
            "param room = 10 GiB\nactivation = room\nlimit activations <= 4 * room\n",
            "GiB",
            "10 GiB",
        ),
        ("activation = 10 GiB / 3\nlet other = 2 TiB\n", "GiB", "3.33333 GiB"),
        ("activation = 1 GiB / 512\nlimit activations <= 1 GiB\n", "GiB", "2 MiB"),
        ("activation = 3 / 8\ntransfer 1 GiB / (1024 * 1024)\n", "", "0.375"),
    ],
)
def test_sizes_come_back_in_the_unit_of_the_file(text: str, unit: str, told: str) -> None:
    made = spec(text)
    assert made.sizes_in == unit
    assert size_figure(made, made.pipelines[0].stages[0].activation) == told


def test_figures_have_six_digits_and_whole_numbers_all() -> None:
    for value, told in (
        ("106967332905761/525001575", "203747"), ("3/2", "1.5"), ("1/3", "0.333333"),
        (12345678, "12345678"), ("123456789/10", "12345679"), ("1/100000", "1e-05"),
    ):  # fmt: skip
        assert figure(value) == told
