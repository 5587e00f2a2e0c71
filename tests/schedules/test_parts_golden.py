"""The figures of schedules with parts: what a simulator that was written before and apart from this
compiler says of the files in which the language of parts was fixed."""

import json
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest

from stretto.compiler.analysis.hidden import hidden
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.driver import compile_text
from stretto.compiler.evaluation import Settings
from stretto.compiler.language.parse import parse_costs
from stretto.compiler.plan.plan import Plan
from stretto.compiler.problem.spec import Spec, number
from stretto.compiler.program.program import Compute, Program
from stretto.compiler.program.timeline import time
from tests.support import library
from tests.support.parts import CHAIN, COSTS
from tests.support.paths import DATA

ROWS: list[dict[str, Any]] = [
    row
    for row in json.loads((DATA / "parts_golden.json").read_text())["files"]
    if "makespan" in row
]


def _name(row: dict[str, Any]) -> str:
    sizes = ",".join(f"{name}={value}" for name, value in row["set"].items())
    costs = "".join(line.split()[-1] for line in row.get("costs", "").splitlines())
    return f"{row['file'].removesuffix('.pipe')}-{sizes}-{costs}"


def _plan(row: dict[str, Any]) -> Plan:
    """The whole line; the plan is proved."""
    ships = row["file"].removesuffix(".pipe") in library.IN_PARTS
    folder = library.FOLDER if ships else DATA / "parts"
    costs = row.get("costs")
    settings = Settings(
        values={name: Fraction(value) for name, value in row["set"].items()},
        costs=parse_costs(Source("costs.pipe", costs)) if costs else None,
    )
    return compile_text((folder / row["file"]).read_text(), row["file"], settings)


@pytest.mark.parametrize("row", ROWS, ids=_name)
def test_figures(row: dict[str, Any]) -> None:
    assert row["exact"], "this test knows no other rows"
    plan = _plan(row)
    program, found = plan.programs["train"], plan.claims["train"]
    spec = program.spec
    computes = [one for own in program.ranks for one in own if isinstance(one, Compute)]
    assert len(computes) == row["operations"]
    assert number(found.makespan, spec.time_unit) == row["makespan"]
    assert number(found.span, spec.time_unit) == row["span"]
    assert plan.bound.ticks <= found.makespan
    assert [number(peak, spec.size_unit) for peak in found.activations] == row["peak"]
    idle = 1 - found.busy / (spec.ranks * found.makespan)
    assert idle == pytest.approx(row["bubble"], abs=1e-6)
    ranks = hidden(time(program))
    shares = [one and one.all.share for one in ranks]
    assert shares == pytest.approx(row["hidden"], abs=1e-6)
    steady = [one and one.steady.share for one in ranks]
    assert steady == pytest.approx(row["hidden_steady"], abs=1e-6)
    assert _pairs(spec) == row["pairs"]
    if "timeline" in row:
        found_rows = [sorted(own, key=str) for own in _timeline(program)]
        assert found_rows == [sorted(own, key=str) for own in row["timeline"]]


def _pairs(spec: Spec) -> list[dict[str, Any]]:
    """Each pair of two stages once, as the figures list them."""

    def words(half: tuple[str, int, int]) -> str:
        kind, p, s = half
        return f"{kind} {spec.pipelines[p].name}[{s}]"

    rows = {
        (words(one.first), words(one.second)): {
            "first": words(one.first),
            "second": words(one.second),
            "span": number(one.span, spec.time_unit),
            "turns": number(one.turns, spec.time_unit),
        }
        for one in spec.joined
    }
    return [rows[key] for key in sorted(rows)]


def _timeline(program: Program) -> list[list[list[Any]]]:
    """Per rank: operation, pipeline, stage, micro-batch, part, layer, start, end."""
    spec = program.spec
    found: list[list[list[Any]]] = []
    for row in time(program).ranks:
        found.append([])
        for timed in row:
            kind, p, s, microbatch, _, part = timed.operation
            own = spec.parts[p][s][part]
            layer = None if own.layer < 0 else own.layer
            times = [number(moment, spec.time_unit) for moment in (timed.start, timed.end)]
            found[-1].append([kind, spec.pipelines[p].name, s, microbatch, own.name, layer, *times])
    return found


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("costs", COSTS)
def test_a_further_micro_batch_takes_the_larger_load(costs: str, layers: int) -> None:
    """On one rank: pairs follow each other without a barrier, and hide in each other what no pair
    alone can hide."""
    rows = list(zip(*COSTS[costs], strict=True))
    found = [_one_rank(rows, layers, microbatches) for microbatches in (2, 3, 4, 8)]
    loads = [
        sum(sum(row) for row, (_, on) in zip(rows, CHAIN, strict=True) if on == stream)
        for stream in (0, 1)
    ]
    larger = layers * max(loads)
    assert [b - a for a, b in pairwise(found)] == [larger, larger, 4 * larger]


def _one_rank(rows: list[tuple[int, int, int]], layers: int, microbatches: int) -> int:
    """The makespan of `F`, pairs `F | B`, and `B`, in ticks."""
    costs = []
    for (name, stream), (forward, inputs, weights) in zip(CHAIN, rows, strict=True):
        costs += [f"cost F.{name} = {forward}", f"cost I.{name} = {inputs}"]
        costs += [f"cost W.{name} = {weights}"] if stream == 0 else []
    chain = ", ".join(name + " on comm" * stream for name, stream in CHAIN)
    text = (
        f"schedule one ranks 1 microbatches {microbatches} pipeline main {{ stages 1 }}\n"
        f"split F into {layers} * ({chain}) split B into I, W\n"
        + "\n".join(costs)
        + "\norder rank r { F; repeat microbatches - 1 { F | B }; B }\n"
    )
    return compile_text(text, "one").claims["train"].makespan
