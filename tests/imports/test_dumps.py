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
from stretto.compiler.problem.spec import Operation, Spec
from stretto.compiler.show import draw
from tests.support import library, specs
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


LISTS = {"zero-bubble": "zero-bubble's lists", "primus": "Primus's table"}
TO_ELSEWHERE = [
    *(("zero-bubble", name) for name in ("zb_h1", "zb_v", "interleaved_1f1b", "gpipe", "zb_h2")),
    *(("primus", name) for name in ("zb_h1", "zb_v", "interleaved_1f1b", "gpipe")),
]


@pytest.mark.parametrize(("system", "name"), TO_ELSEWHERE)
def test_what_is_written_for_another_system_comes_back(system: str, name: str) -> None:
    plan = compile_file(name, ranks=3, microbatches=6)
    text = draw(plan, system)
    placement: PlacementWord | None = "v" if name == "zb_v" else None
    again = understood(READERS[system](Source("t", text), MOST_ACTIONS, placement))
    assert again.order == plan.programs["train"].spec.order
    plan = compile_spec(again, Budget(effort=0))
    if system == "zero-bubble":  # without times, as messages of Primus are ordered by
        assert draw(plan, system) == text


@pytest.mark.parametrize("system", LISTS)
@pytest.mark.parametrize("name", ["dualpipe", "inference", "hanayo"])
def test_what_another_system_cannot_hold_is_refused(system: str, name: str) -> None:
    if name == "hanayo":
        plan = compile_file(name, ranks=4, microbatches=8, waves=2)
    else:
        plan = compile_file(name, ranks=4, microbatches=8)
    with pytest.raises(Rejected, match=f"{LISTS[system]} cannot hold this schedule"):
        draw(plan, system, "eval" if name == "inference" else "train")


@pytest.mark.parametrize("system", LISTS)
def test_stages_take_their_data_in_sequence_elsewhere(system: str) -> None:
    units = [[(Operation("F", 0, s, m),) for m in (1, 0)] for s in (0, 1)]
    units = [[*row, *((Operation("B", 0, s, m),) for m in (0, 1))] for s, row in enumerate(units)]
    with pytest.raises(Rejected, match=r"`F main\[0, 0\]` runs after `F main\[0, 1\]`"):
        draw(compile_spec(specs.written(specs.linear(2, 2), units)), system)


def test_primus_splits_no_backward_in_a_loop_of_several_turns() -> None:
    plan = compile_file("interleaved_zero_bubble", ranks=2, microbatches=4)
    with pytest.raises(Rejected, match="it splits no backward in a loop of several turns"):
        draw(plan, "primus")


@pytest.mark.parametrize("name", ["zb_h1", "zb_v", "interleaved_1f1b"])
def test_primus_gets_every_message_once_on_both_ranks_and_in_one_sequence(name: str) -> None:
    """What Primus needs of a list: every message is in both, names the other's rank and chunk, is
    sent behind what makes it and received before what uses it, and both ranks go through their
    messages by time step."""
    plan = compile_file(name, ranks=3, microbatches=6)
    rows = [
        [cell[1:-1].split("|") for cell in row.split(",")] for row in draw(plan, "primus").split()
    ]
    sent, received = set(), set()
    for rank, row in enumerate(rows):
        steps = [int(node[5]) for node in row if len(node) == 6]
        assert steps == sorted(steps)
        seen: set[tuple[str, ...]] = set()
        for kind, batch, chunk, *message in row:
            seen.add((kind, batch, chunk))
            if not message:
                assert kind != "F" or ("RF", batch, chunk) in seen or (rank, chunk) == (0, "0")
                continue
            peer, there, step = message
            at = (kind[1], batch, step)
            if kind[0] == "S":
                made = (
                    {("F", batch, chunk)}
                    if kind == "SF"
                    else {(k, batch, chunk) for k in ("B", "BW")}
                )
                assert made & seen
                sent.add((*at, rank, int(chunk), int(peer), int(there)))
            else:
                received.add((*at, int(peer), int(there), rank, int(chunk)))
    spec = plan.programs["train"].spec
    assert sent == received
    assert len(sent) == 2 * (len(spec.pipelines[0].stages) - 1) * spec.microbatches


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
