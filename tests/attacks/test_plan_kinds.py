"""Forged plans of every kind: forwards alone, stages in parts, gradients averaged beside, imports.
As in `test_plans`: each field of header and lines is dropped, of another kind, of another value,
the file sealed again; what is accepted prints what the honest plan prints.

A plan that was imported has no text that it could contradict: what is its own to say (names, units,
what costs how much) may be another, and is then another plan. It is proved like any: no such change
may crash, print a line of a text, or claim what its instructions do not do."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

import pytest

from stretto.compiler.diagnostics.source import Source
from stretto.compiler.driver import compile_file, compile_spec, compile_text
from stretto.compiler.imports.torch_csv import read
from stretto.compiler.imports.understand import MOST_ACTIONS, understood
from stretto.compiler.order.budget import Budget
from stretto.compiler.plan.plan import Plan
from stretto.compiler.show import torch_csv
from stretto.compiler.show.view import view
from tests.attacks.conftest import Tally
from tests.attacks.test_plans import UNUSED, swept

COLLECTIVES = """\
schedule collectives ranks 2 microbatches 2
split B into I, W
pipeline main { stages 4 place s -> s % 2 }
reduce gradients cost s + 1 for stage s
unshard weights cost 2
"""


@cache
def plan(kind: str) -> Plan:
    if kind == "inference":
        return compile_file("inference", parameters={"ranks": 2, "microbatches": 3})
    if kind == "deepseek_v3":
        return compile_file("deepseek_v3", parameters={"ranks": 2, "microbatches": 4})
    if kind == "collectives":
        return compile_text(COLLECTIVES, "collectives.pipe", budget=Budget(effort=0))
    honest = compile_file("one_f_one_b", parameters={"ranks": 2, "microbatches": 3})
    text = torch_csv.draw(view(honest, "train"), "compute_comms")
    table = read(Source("t.csv", text), MOST_ACTIONS)
    return compile_spec(understood(table, None))


@pytest.mark.parametrize("kind", ["inference", "collectives", "deepseek_v3"])
def test_every_field_of_every_kind_is_checked_or_unused(
    kind: str, tmp_path: Path, attacks: Callable[[int, int], int], tally: Tally
) -> None:
    outcomes, table = swept(plan(kind), tmp_path, Random(kind), attacks(100, 6000), attacks(1, 8))
    accepted = {key for key, found in table.items() if found != {"refused"}}
    assert accepted <= UNUSED, {key: table[key] for key in accepted - UNUSED}
    assert not outcomes["believed"], table
    tally(**outcomes)


OWN = {"spec.name", "spec.pipelines.name", "spec.time_unit", "spec.size_unit"}
"""What an import may say of itself: another value is printed."""

UNSEEN = {
    "spec.pipelines.stages.I",  # costs and sizes of halves, where no backward is split
    "spec.pipelines.stages.W",
    "spec.pipelines.stages.kept",
    "spec.pipelines.at",  # places in a text that is not there
    "programs.eval.at",
    "programs.train.at",
    *(f"spec.spans.t.csv {k}" for k in range(5)),
}
"""Of which another value changes nothing that is printed of an import."""


def test_every_field_of_an_import_is_checked_or_its_own(
    tmp_path: Path, attacks: Callable[[int, int], int], tally: Tally
) -> None:
    imported = plan("imported")
    outcomes, table = swept(imported, tmp_path, Random(0), attacks(100, 6000), attacks(1, 8))
    printed = {key for key, found in table.items() if "believed" in found}
    unseen = {key for key, found in table.items() if "unused" in found}
    assert printed <= OWN and unseen <= UNUSED | UNSEEN | OWN
    tally(**outcomes)
