"""The line from Spec to claims against figures that others computed: the golden table (a simulator
that shares no code with us) and DualPipe's published sequences with the times and peaks that were
found for them. Specs are made by hand here; `test_library_*` does it through the language.

`data/golden.csv` and `data/dualpipe_sequences.json` are the tables of `shared/facts`; their origin
is told in `data/README.md`.
"""

import csv
import json
from collections.abc import Callable
from fractions import Fraction
from math import lcm
from typing import NamedTuple

import pytest

from stretto.compiler.order.written import written
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import NONE, Operation, Spec
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicate, forwards
from stretto.compiler.program.program import Compute, Program
from stretto.compiler.proof.prove import prove
from tests.support import specs
from tests.support.paths import DATA

SCHEDULES: dict[str, tuple[Callable[[Spec, int], list[str]], ...]] = {
    "gpipe": (specs.gpipe,),
    "1f1b": (specs.one_f_one_b, specs.eager_1f1b),  # the table calls both so
    "interleaved": (specs.interleaved_1f1b,),
    "zb_h1": (specs.zb_h1,),
}
with (DATA / "golden.csv").open() as file:
    ROWS = [row for row in csv.DictReader(file) if row["schedule"] in SCHEDULES]
SEQUENCES = json.loads((DATA / "dualpipe_sequences.json").read_text())


def programs(spec: Spec) -> tuple[Program, Program]:
    order = written(expand(spec))
    return communicate(order), forwards(order)


# ---------------------------------------------------------------------------- the golden table


class Figures(NamedTuple):
    makespan: Fraction
    span: Fraction
    peaks: tuple[int, ...]


Key = tuple[str, ...]  # ranks, stages, micro-batches, F, I, W, transfer


def golden(schedule: str) -> dict[Key, set[Figures]]:
    """The table's rows of the schedule, by what they were computed for."""
    found: dict[Key, set[Figures]] = {}
    names = ("ranks", "stages_per_pipeline", "microbatches", "F", "I", "W", "transfer")
    for row in ROWS:
        if row["schedule"] == schedule:
            peaks = tuple(map(int, row["peak_per_rank"].split()))
            figures = Figures(Fraction(row["makespan"]), Fraction(row["span"]), peaks)
            found.setdefault(tuple(row[name] for name in names), set()).add(figures)
    return found


def computed(key: Key, schedule: Callable[[Spec, int], list[str]]) -> Figures:
    """The same by our line, proved too."""
    ranks, stages, many = map(int, key[:3])
    times = [Fraction(text) for text in key[3:]]
    unit = lcm(*(time.denominator for time in times))
    f, i, w, transfer = (int(time * unit) for time in times)
    place = [s % ranks for s in range(stages)]
    line = specs.pipeline("main", place, many, (f, i, w), activation=1, kept=1)
    spec = specs.ordered(specs.model(ranks, line, transfer=transfer), schedule)
    program, _ = programs(spec)
    found = claims(program)
    assert prove(program, found)
    return Figures(Fraction(found.makespan, unit), Fraction(found.span, unit), found.activations)


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_every_row_of_the_golden_table(schedule: str) -> None:
    rows = golden(schedule)
    assert len(rows) >= 42
    for key, theirs in rows.items():
        assert {computed(key, each) for each in SCHEDULES[schedule]} == theirs, key


# ---------------------------------------------------------------------------- DualPipe


def operation(token: str, ranks: int, rank: int, vee: bool) -> Operation:
    """`F1.3`: micro-batch 3 of the way up, or of the second half of a V."""
    kind, way, microbatch = token[0], int(token[1]), int(token[3:])
    if vee:
        stage = 2 * ranks - 1 - rank if way else rank
        return Operation(kind, 0, stage, microbatch)
    stage = ranks - 1 - rank if way else rank
    return Operation(kind, way, stage, microbatch)


def published(key: str, costs: tuple[int, int, int] = (1, 1, 1), pair: int | None = None) -> Spec:
    """The Spec whose order is the sequence that was published under `key`."""
    name, ranks, many = key.split("/")[0], *map(int, key.split("/")[1:3])
    vee = name == "dualpipev"
    spec = (specs.vee if vee else specs.both_ways)(ranks, many, costs, pair=pair)
    order = [
        [tuple(operation(t, ranks, rank, vee) for t in unit.split("|")) for unit in units]
        for rank, units in enumerate(SEQUENCES[key])
    ]
    return specs.written(spec, order)


def sizes(name: str) -> list[str]:
    return [key for key in SEQUENCES if key.count("/") == 2 and key.startswith(name + "/")]


@pytest.mark.parametrize("key", sizes("dualpipe"))
def test_published_dualpipe_takes_as_long_and_holds_as_much_as_was_found(key: str) -> None:
    """T = 3(P+1) + (M−P−1)·FB + (P/2−1)(FB−1) for unit costs and 2 <= FB <= 3; peak P+1."""
    p, m = map(int, key.split("/")[1:])
    for pair in (8, 9, 10, 12):  # in quarters
        program, _ = programs(published(key, (4, 4, 4), pair))
        found = claims(program)
        expected = 12 * (p + 1) + (m - p - 1) * pair + (p // 2 - 1) * (pair - 4)
        assert found.makespan == expected
        assert found.activations == (2 * (p + 1),) * p
        assert prove(program, found)
        assert len(program.reductions) == p


@pytest.mark.parametrize(
    ("costs", "size", "expected"),
    [
        ((10, 10, 5), (8, 20), {25: 575, 20: 505, 15: 435}),
        ((10, 16, 6), (8, 20), {32: 738, 27: 668, 22: 598}),
        ((2, 4, 2), (8, 20), {8: 182, 7: 168, 6: 154}),
        ((2, 1, 1), (8, 20), {4: 92, 3: 78, 2: 64}),
    ],
)
def test_dualpipe_with_other_costs(
    costs: tuple[int, int, int], size: tuple[int, int], expected: dict[int, int]
) -> None:
    """The table `F, I, W` of the facts, in ticks that are a tenth or a half of its unit."""
    for pair, makespan in expected.items():
        program, _ = programs(published(f"dualpipe/{size[0]}/{size[1]}", costs, pair))
        assert claims(program).makespan == makespan


@pytest.mark.parametrize("key", sizes("dualpipev"))
def test_dualpipe_v_takes_as_long_as_dualpipe_on_twice_the_ranks(key: str) -> None:
    ranks, many = map(int, key.split("/")[1:])
    p, m = 2 * ranks, 2 * many
    if many < 2 * ranks:
        pytest.skip("below the published minimum")
    found = claims(programs(published(key))[0])
    assert found.makespan == 3 * (p + 1) + (m - p - 1) * 3 + (p // 2 - 1) * 2
    assert found.activations == (2 * (2 * ranks + 1),) * ranks


@pytest.mark.parametrize("key", [*sizes("dualpipe"), *sizes("dualpipev")])
def test_the_eval_program_is_the_published_order_without_its_backwards(key: str) -> None:
    """DeepSeek's forward-only step: the F of the same order, no pairs."""
    ranks, vee = int(key.split("/")[1]), key.startswith("dualpipev")
    program, alone = programs(published(key))
    assert alone.channels == program.channels
    for rank, units in enumerate(SEQUENCES[key]):
        tokens = [token for unit in units for token in unit.split("|") if token[0] == "F"]
        computes = [one for one in alone.ranks[rank] if isinstance(one, Compute)]
        assert [one.operation for one in computes] == [
            operation(token, ranks, rank, vee) for token in tokens
        ]
        assert {one.unit for one in computes} == {NONE}
    assert prove(alone, claims(alone))
