"""The recipes of the reference that make a file of costs of what a profiler writes, verbatim."""

import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from stretto.compiler import library
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.evaluation import Settings, evaluate
from stretto.compiler.evaluation.settings import SeldomMeant
from stretto.compiler.language.parse import parse, parse_costs
from stretto.compiler.problem.spec import Spec
from tests.support.paths import ROOT

TEXT = (ROOT / "docs/language.md").read_text()
PART = TEXT.partition("### Costs from a profiler")[2].partition("\n### ")[0]
BLOCKS = re.findall(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", PART, re.M | re.S)


def measured(folder: Path) -> Spec:
    """1F1B of two stages with the costs that were written, of which none is missing."""
    doubts: list[SeldomMeant] = []
    costs = parse_costs(Source("measured.pipe", (folder / "measured.pipe").read_text()))
    settings = Settings({"ranks": 2, "microbatches": 4}, costs, doubt=doubts.append)
    spec = evaluate(parse(library.read("one_f_one_b")), settings)
    assert not [doubt for doubt in doubts if doubt.code != "rounded"]
    return spec


COMMANDS = [(name, at) for at, (kind, name, _) in enumerate(BLOCKS) if kind in ("csv", "json")]


@pytest.mark.parametrize(("name", "at"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_a_command_makes_a_file_of_costs_of_a_table(tmp_path: Path, name: str, at: int) -> None:
    (tmp_path / name).write_text(BLOCKS[at][2])
    kind, _, command = BLOCKS[at + 1]
    assert kind == "sh"
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    subprocess.run(["bash", "-ec", command], cwd=tmp_path, env={"PATH": path}, check=True)
    spec = measured(tmp_path)
    factor = 10**6 if name == "ranges.csv" else 1  # nanoseconds
    for stage, (forward, backward) in zip(
        spec.pipelines[0].stages, (("18.52208", "35.91"), ("17.25", "36.4")), strict=True
    ):
        for ticks, wanted in ((stage.F, forward), (stage.B, backward)):
            found = Fraction(ticks, spec.time_unit) / factor
            assert abs(found - Fraction(wanted)) < Fraction(1, 10**4)


def test_the_profilers_names_are_those_of_costs(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (program,) = (body for kind, _, body in BLOCKS if kind == "python")
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=100)
    lines = (tmp_path / "measured.pipe").read_text().splitlines()
    assert sorted(line.split(" = ")[0] for line in lines) == [
        "cost B[0]",
        "cost B[1]",
        "cost F[0]",
        "cost F[1]",
    ]
    assert all(stage.F and stage.B for stage in measured(tmp_path).pipelines[0].stages)
