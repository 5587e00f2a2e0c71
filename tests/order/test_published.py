"""The published schedules as the search writes them, against the library's files: every rank's
sequence, operation by operation; and that beside a partly written order none is taken that does
not keep to it."""

import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.order.engines.published import published_schedules
from stretto.compiler.order.kernels.arrays import arrays_of
from stretto.compiler.order.kernels.instance import instance_of
from stretto.compiler.order.kernels.sequences import order_of, pack
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Spec
from tests.support import library
from tests.support.command_line import STRETTO

SIZES = ((1, 3), (2, 2), (2, 4), (3, 5), (3, 9), (4, 2), (4, 3), (4, 8), (4, 11), (6, 12), (8, 20))
"""Ranks and micro-batches; more and fewer micro-batches than a warm-up has."""

CHUNKS = ({"chunks": 2}, {"chunks": 3})

COVERED: dict[str, tuple[str, tuple[dict[str, int], ...]]] = {
    "gpipe": ("gpipe", ({},)),
    "one_f_one_b": ("one_f_one_b", ({},)),
    "eager_1f1b": ("eager_1f1b", ({},)),
    "zb_h1": ("zb_h1", ({},)),
    "zb_h2": ("zb_h2", ({},)),
    "zb_v": ("zb_v", ({},)),
    "dualpipe_v": ("dualpipe_v", ({},)),
    "gems": ("gems", ({},)),
    "chimera": ("chimera", ({},)),
    "two_models": ("chimera", ({},)),  # its order is Chimera's
    "dualpipe": ("dualpipe", ({},)),
    "inference": ("inference", ({"chunks": 1}, *CHUNKS)),
    "interleaved_1f1b": ("interleaved_1f1b", CHUNKS),
    "interleaved_zero_bubble": ("interleaved_zero_bubble", CHUNKS),
    "looped_bfs": ("looped_bfs", CHUNKS),
}
"""The schedule that is written for each file, and the parameters it is tried with."""

NOT_WRITTEN = {"hanayo", "v_half", *library.IN_PARTS}
"""Files without a generator, or, as v_half, without an order to compare with; in hanayo's placement
others are tried. What is written of parts is compared elsewhere."""

Word = tuple[str, int, int]
"""Kind, pipeline and stage. The micro-batch is not compared: equal ones are the same to the search,
which numbers them as they come (looped_bfs takes the last one first on the way back)."""


def words(units: Any) -> list[tuple[Word, ...]]:
    """A rank's units; a B alone is written as I and W, as the search writes it, which splits all
    backwards that a file lets it split."""
    found: list[tuple[Word, ...]] = []
    for unit in units:
        row = tuple((o.kind, o.pipeline, o.stage) for o in unit)
        if len(row) == 1 and row[0][0] == "B":
            found += [(("I", *row[0][1:]),), (("W", *row[0][1:]),)]
        else:
            found.append(row)
    return found


def generated(spec: Spec, name: str) -> list[list[list[tuple[Word, ...]]]]:
    """The ranks' units of everything that the search writes under this name."""
    instance = instance_of(expand(msgspec.structs.replace(spec, written=())))
    t = arrays_of(instance)
    found = []
    for other, ranks in published_schedules(instance):
        if other == name:
            sequence = pack(t, ranks)
            assert sequence is not None
            order = order_of(instance, t, sequence, name)
            operations = order.problem.operations
            found.append(
                [
                    words([[operations[i] for i in unit] for unit in lane.units])
                    for lane in order.lanes
                ]
            )
    return found


@pytest.mark.parametrize("name", sorted(COVERED))
def test_a_published_schedule_is_that_of_its_file(name: str) -> None:
    """Of several variants under one name (groups of other sizes, a warm-up cut to what memory
    holds, no overlap) one is the file's."""
    schedule, parameters = COVERED[name]
    tried = 0
    for ranks, many in SIZES:
        for more in parameters:
            if ranks == 1 and more.get("chunks") == 2:
                continue  # two stages on one rank are taken for a V
            try:
                spec = library.spec(name, ranks=ranks, microbatches=many, **more)
            except Rejected:
                continue  # a `require` of the file
            file = [words([unit.operations for unit in row]) for row in spec.written]
            assert file in generated(spec, schedule), (ranks, many, more)
            tried += 1
    assert tried >= 4


def test_every_file_is_covered_or_named() -> None:
    assert COVERED.keys() | NOT_WRITTEN == set(library.NAMES)
    assert not COVERED.keys() & NOT_WRITTEN


CHAIN = "place s -> s"
VEE = "stages 2 * ranks place s -> min(s, 2 * ranks - 1 - s)"
SPLIT = "split B into I, W"

PARTLY = [
    pytest.param(CHAIN, "", "F[0, 6] | B[0, 0]", "", id="chain"),
    pytest.param(CHAIN, SPLIT, "F[0, 6] | B[0, 0]", "cost F | B = 2", id="chain, split"),
    pytest.param(CHAIN, "", "F[0, 6] | B[0, 0]", "minimize makespan under jitter 1/5", id="jitter"),
    pytest.param(VEE, SPLIT, "F[0, 5] | B[7, 0]", "cost F | B = 3", id="vee, split"),
    pytest.param(VEE, "", "F[0, 5] | B[7, 0]", "limit activations <= 8", id="vee, limit"),
    pytest.param(VEE, SPLIT, "W[0, 2]; W[0, 1]", "cost F | B = 2", id="weights out of turn"),
]


@pytest.mark.parametrize("effort", ["0", "1"])
@pytest.mark.parametrize(("place", "split", "units", "more"), PARTLY)
def test_what_is_written_beside_order_auto_is_kept(
    tmp_path: Path, place: str, split: str, units: str, more: str, effort: str
) -> None:
    """The published schedules split a written pair, and other engines may exchange its forward for
    another: then the search goes on without them. A wrong order would end in a traceback."""
    file = tmp_path / "partly.pipe"
    file.write_text(
        "schedule partly\nranks 4\nmicrobatches 8\n"
        f"pipeline main {{ {place} }}\n{split}\noverlap F | B\n{more}\n"
        f"order rank r {{ if r == 0 {{ {units} }} }}\norder auto\n"
    )
    plan = tmp_path / "plan.json"
    done = subprocess.run(
        [*STRETTO, "compile", str(file), "--effort", effort, "-o", str(plan)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert plan.exists()
