"""The figures of schedules with parts: what a simulator that was written before and apart from this
compiler says of the files in which the language of parts was fixed."""

import json
from typing import Any

import pytest

from stretto.compiler.analysis.hidden import hidden
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.order.written import written
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Spec, number
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicate, forwards
from stretto.compiler.program.program import Compute, Program, ProgramName
from stretto.compiler.program.timeline import time
from stretto.compiler.proof.prove import prove_all
from tests.support import library
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


def _programs(row: dict[str, Any]) -> dict[ProgramName, Program]:
    ships = row["file"].removesuffix(".pipe") in library.IN_PARTS
    folder = library.FOLDER if ships else DATA / "parts"
    source = Source(row["file"], (folder / row["file"]).read_text())
    order = written(expand(library.evaluated(source, row.get("costs", ""), **row["set"])))
    return {"train": communicate(order), "eval": forwards(order)}


@pytest.mark.parametrize("row", ROWS, ids=_name)
def test_figures(row: dict[str, Any]) -> None:
    assert row["exact"], "this test knows no other rows"
    programs = _programs(row)
    claimed = {name: claims(program) for name, program in programs.items()}
    prove_all(programs, claimed)
    program, found = programs["train"], claimed["train"]
    spec = program.spec
    computes = [one for own in program.ranks for one in own if isinstance(one, Compute)]
    assert len(computes) == row["operations"]
    assert number(found.makespan, spec.time_unit) == row["makespan"]
    assert number(found.span, spec.time_unit) == row["span"]
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
