"""Tables that the code of other systems has written: what is right passes with the figures that are
known of it, and what they get wrong is found. `tests/data/tables/README.md` says how they were
made.
"""

import pytest

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.driver import compile_file, compile_spec
from stretto.compiler.imports.readable import readable
from stretto.compiler.imports.readers import READERS
from stretto.compiler.imports.recognise import recognised
from stretto.compiler.imports.table import PlacementWord, TableSizes
from stretto.compiler.imports.understand import MOST_ACTIONS, understood
from stretto.compiler.order.budget import Budget
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Spec
from stretto.compiler.show import draw
from tests.support import library
from tests.support.paths import DATA

V = ("primus_zbv_4_2_8", "primus_zbv_4_2_4", "primus_v-half_4_2_8")

RIGHT = {
    # the dump: its makespan at F = I = W = 1, the highest peak in stages, what it is
    "primus_interleaved_4_2_8": (57, 11, "interleaved_1f1b"),
    "primus_zbv_4_2_8": (51, 8, "zb_v"),
    "primus_v-half_4_2_8": (53, 6, None),
    "jaxpp_KimiK2_4_2_8": (57, 12, None),
    "jaxpp_DualPipeV_4_2_8": (53, 9, None),
    "jaxpp_ZeroBubble_4_1_8": (27, 4, "zb_h1"),
    "zero-bubble_zb_4_1_8": (27, 8, None),
    "zero-bubble_zbv_4_2_8": (52, 8, None),
    "zero-bubble_vpp_4_2_8": (57, 11, "interleaved_1f1b"),
    "megatron_4_2_8_4": (57, 11, "interleaved_1f1b"),
    "dualpipe_4_8": (26, 5, "dualpipe"),
    "dualpipe_8_20": (66, 9, "dualpipe"),
}
WRONG = {
    # Primus schedules other micro-batches than there are where they are few, or no multiple
    "primus_interleaved_4_2_4": {"no-such-operation", "unknown-cell"},
    "primus_interleaved_4_2_6": {"no-such-operation", "left-out"},
    "primus_zbv_4_2_4": {"no-such-operation"},
    # JaxPP's class runs one backward again and again
    "jaxpp_InterleavedGPipe_4_2_8": {"runs-twice", "left-out"},
    # Megatron itself refuses groups of fewer micro-batches than ranks
    "megatron_4_2_8_3": {"deadlock"},
}


def read(name: str) -> Spec:
    system, *_ = name.split("_")
    text = (DATA / "tables" / f"{name}.csv").read_text()
    placement: PlacementWord | None = "v" if name in V else None
    table = READERS[system](Source(f"{name}.csv", text), MOST_ACTIONS, placement)
    many = int(name.split("_")[{"megatron": 3, "dualpipe": 2}.get(system, 4)])
    spec = understood(table, TableSizes(microbatches=many), name="table")
    expand(spec)
    return spec


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_passes(name: str) -> None:
    makespan, peak, known = RIGHT[name]
    spec = read(name)
    claims = compile_spec(spec, Budget(effort=0)).claims["train"]
    assert (claims.makespan, max(claims.activations)) == (makespan, peak)
    found = recognised(spec)
    assert (found and found.split()[0]) == known
    again = library.evaluated(Source("again.pipe", readable(spec)))
    assert again.order == spec.order


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found(name: str) -> None:
    with pytest.raises(Rejected) as found:
        read(name)
    assert {one.code for one in found.value.diagnostics} >= WRONG[name]
    assert all(one.labels for one in found.value.diagnostics[:100])


@pytest.mark.parametrize("name", ["zb_h1", "zb_v", "interleaved_1f1b", "gpipe", "zb_h2"])
def test_zero_bubbles_lists_come_back_as_they_went(name: str) -> None:
    plan = compile_file(name, ranks=3, microbatches=6)
    text = draw(plan, "zero-bubble")
    again = understood(READERS["zero-bubble"](Source("t", text), MOST_ACTIONS, None))
    assert draw(compile_spec(again), "zero-bubble") == text
    assert again.order == plan.programs["train"].spec.order


@pytest.mark.parametrize("name", ["dualpipe", "inference", "hanayo"])
def test_what_zero_bubbles_lists_cannot_hold_is_refused(name: str) -> None:
    if name == "hanayo":
        plan = compile_file(name, ranks=4, microbatches=8, waves=2)
    else:
        plan = compile_file(name, ranks=4, microbatches=8)
    with pytest.raises(Rejected, match="zero-bubble's lists cannot hold this schedule"):
        draw(plan, "zero-bubble", "eval" if name == "inference" else "train")


def test_there_is_a_case_for_every_dump() -> None:
    kept = {path.stem for path in (DATA / "tables").glob("*.csv")}
    assert kept == RIGHT.keys() | WRONG.keys()


@pytest.mark.parametrize(
    ("system", "cell"),
    [
        ("zero-bubble", "3X0"),
        ("primus", "(F|-1|0)"),
        ("megatron", "0"),
        ("jaxpp", "3FWD"),
        ("dualpipe", "F2.0"),
        ("dualpipe", "W"),
    ],
)
def test_a_word_that_means_nothing_is_marked(system: str, cell: str) -> None:
    with pytest.raises(Rejected) as found:
        understood(READERS[system](Source("t", f"{cell}\n"), MOST_ACTIONS, None))
    first = found.value.diagnostics[0]
    assert first.code == "unknown-cell" and first.labels[0].span[1:3] == (1, 1)
    assert f"`{cell}`" in first.message
