"""What `show --format json` tells of schedules whose stages are cut into parts."""

from fractions import Fraction
from typing import Any

import pytest

from stretto.compiler.bounds.bound import Bound
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.order.written import written
from stretto.compiler.plan.plan import assemble
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Spec
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicate
from stretto.compiler.show.json import entry
from stretto.compiler.show.pairs import pairs
from stretto.compiler.show.view import view
from tests.support import library
from tests.support.paths import DATA


def spec(name: str, **values: int) -> Spec:
    """A file with parts at other sizes."""
    folder = library.FOLDER if name in library.IN_PARTS else DATA / "parts"
    text = (folder / f"{name}.pipe").read_text()
    return library.evaluated(Source(f"{name}.pipe", text), **values)


def bars(found: Spec) -> list[list[dict[str, Any]]]:
    """The timeline of its plan."""
    program = communicate(written(expand(found)))
    plan = assemble({"train": program}, {"train": claims(program)}, Bound(1, "none"), "test", ())
    laid_out = view(plan, "train")
    return [[entry(laid_out, bar) for bar in lane] for lane in laid_out.lanes]


def test_the_pair_of_the_published_trace() -> None:
    """Four layers of a stage, in tenths of a millisecond: 126.8 ms, where 129.0 were measured."""
    first, second = pairs(spec("deepseek_v3", ranks=2, microbatches=4, layers=4))
    assert (first["rank"], second["rank"]) == (0, 1)
    assert first["first"] == {"op": "B", "pipeline": "down", "stage": 0}
    assert first["second"] == {"op": "F", "pipeline": "up", "stage": 1}
    assert (first["span"], first["turns"], first["load"]) == (1268, 1268, [1268, 1004])
    words = [f"{one['op']}.{one['part']}" for one in first["sequence"][:10]]
    assert words == [
        "I.combine", "F.attention", "I.mlp", "W.mlp", "F.dispatch", "I.dispatch", "F.mlp",
        "I.attention", "W.attention", "F.combine",
    ]  # fmt: skip
    assert [one["layer"] for one in first["sequence"][:2]] == [3, 0]
    assert {one["stream"] for one in first["sequence"]} == {"compute", "comm"}
    assert len(first["sequence"]) == 40


@pytest.mark.parametrize("name", ["moe_1f1b", "parts_uneven", "parts_explicit"])
def test_parts_have_names(name: str) -> None:
    wanted = spec(name)
    for row in bars(wanted):
        starts = [Fraction(bar["start"]) for bar in row]
        assert starts == sorted(starts)
        for bar in row:
            own = wanted.parts[0][bar["stage"]]
            assert any(
                (part.name, part.layer, wanted.streams[part.stream])
                == (bar["part"], -1 if bar["layer"] is None else bar["layer"], bar["stream"])
                for part in own
            )
            assert bar["unit"] is None
    assert {pair["rank"] for pair in pairs(wanted)} <= set(range(wanted.ranks))
