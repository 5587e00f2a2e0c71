"""PyTorch's tables: what it makes rightly passes, what it accepts and gets wrong is refused, with
the cell, and whatever is broken in a good table is seen."""

import re
from pathlib import Path
from random import Random

import pytest
from torch.distributed.pipelining import schedules

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Rejected
from stretto.compiler.diagnostics.render import render
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.driver import compile_spec, plan_of
from stretto.compiler.imports.communicating import communicating
from stretto.compiler.imports.table import PlacementWord, TableSizes
from stretto.compiler.imports.torch_csv import read
from stretto.compiler.imports.understand import MOST_ACTIONS, understood
from stretto.compiler.order.budget import Budget
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Spec
from stretto.compiler.proof.prove import prove
from tests.support.torch_csv import dumped, loads, plays, stages
from tests.support.torch_tables import CLASSES, table

DIALECTS = ("compute_only", "compute_comms")
V_SHAPED = ("zb_v", "dualpipe_v")


def checked(text: str, sizes: TableSizes | None = None) -> Spec:
    """The Spec of a table that is right, its messages proved where it has any."""
    found = read(Source("t.csv", text), MOST_ACTIONS)
    spec = understood(found, sizes)
    expand(spec)
    if found.communicates:
        prove(communicating(found, spec))
    return spec


def findings(text: str, sizes: TableSizes | None = None) -> list[Diagnostic]:
    try:
        checked(text, sizes)
    except Rejected as error:
        return list(error.diagnostics)
    return []


# ---------------------------------------------------------------------------- what is right


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_pytorch_makes_passes(name: str, dialect: str, tmp_path: Path) -> None:
    for ranks, microbatches, chunks in ((1, 3, 2), (2, 4, 2), (4, 8, 2), (3, 9, 2)):
        right(tmp_path, name, ranks, microbatches, chunks, dialect)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", CLASSES)
def test_all_that_pytorch_makes_passes(name: str, tmp_path: Path) -> None:
    many = 0
    for ranks in range(1, 9):
        for chunks in (2,) if name in V_SHAPED else (1, 2, 3, 4):
            for microbatches in range(1, 4 * ranks + 1):
                for dialect in DIALECTS:
                    many += right(tmp_path, name, ranks, microbatches, chunks, dialect)
    assert many > 100


def right(path: Path, name: str, ranks: int, many: int, chunks: int, dialect: str) -> bool:
    """A table of PyTorch's passes with its sizes given, and with those that it shows itself."""
    try:
        text = dumped(path, name, ranks, many, chunks, dialect)
    except ValueError:
        return False
    placement: PlacementWord = "v" if name in V_SHAPED else "loop"
    spec = checked(text, TableSizes(ranks, many, placement))
    own = table(name, ranks, many, chunks)
    units = [[[o[:1] + o[2:4] for o in unit.operations] for unit in row] for row in spec.written]
    assert [[list(unit) for unit in row] for row in own] == units
    assert checked(text) == spec
    return True


def test_a_table_of_computations_goes_down_the_line(tmp_path: Path) -> None:
    spec = checked(dumped(tmp_path, "zb_v", 4, 8, 2, "compute_only"))
    plan = compile_spec(spec, Budget(effort=0))
    assert (plan.claims["train"].makespan, plan.sources) == (51, ())


def test_a_table_with_messages_is_proved_as_it_stands(tmp_path: Path) -> None:
    found = read(Source("t.csv", dumped(tmp_path, "zb_v", 4, 8, 2, "compute_comms")), MOST_ACTIONS)
    plan = plan_of(communicating(found, understood(found)))
    assert plan.claims["train"].makespan == 51
    assert sum(plan.claims["train"].receives) > 0


# ---------------------------------------------------------------------------- what is wrong

GOOD = """0F0,0F1,0B0,0B1
1F0,1B0,1F1,1B1
"""
GOOD_COMMS = """0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1,0REDUCE_GRAD
1RECV_F0,1F0,1B0,1SEND_B0,1RECV_F1,1F1,1B1,1SEND_B1,1REDUCE_GRAD
"""
WRONG = {
    # what is wrong: the good table, what becomes what, code, line and cell that is marked
    "forward twice": (GOOD, "0F1,", "0F1,0F1,", "runs-twice", "1:9: 0F1"),
    "backward twice": (GOOD, "0B0,0B1", "0B0,0B1,0B1", "runs-twice", "1:17: 0B1"),
    "beyond the micro-batches": (GOOD, "1B1", "1B1,1F7,1B7", "no-such-operation", "2:17: 1F7"),
    "whole and in halves": (GOOD, "0B1", "0I0,0W0", "runs-twice", "1:13: 0I0"),
    "a circle": (
        "0F0,0F1,0B0,0B1\n1F0,1F1,1B0,1B1\n",
        "0F0,0F1,0B0,0B1\n1F0,1F1",
        "0F0,0B0,0F1,0B1\n1F0,1F1",
        "deadlock",
        "1:5: 0B0",
    ),
    "losses mixed up": (GOOD, "1F0,1B0,1F1", "1F1,1F0,1B0", "mixed-losses", "2:5: 1F0"),
    "gradients crossed": (
        GOOD_COMMS, "0RECV_B0,0B0,0RECV_B1", "0RECV_B1,0RECV_B0,0B0", "wrong-message",
        "1:27: 0RECV_B1",
    ),
    "activations crossed": (
        GOOD_COMMS, "1RECV_F0,1F0,1B0,1SEND_B0,1RECV_F1", "1RECV_F1,1RECV_F0,1F0,1B0,1SEND_B0",
        "wrong-message", "2:1: 1RECV_F1",
    ),
    "not reduced": (GOOD_COMMS, ",0REDUCE_GRAD", "", "wrong-collective", "1:52: "),
    "reduced twice": (
        GOOD_COMMS, ",0REDUCE", ",0REDUCE_GRAD,0REDUCE", "wrong-collective", "1:66: 0REDUCE_GRAD",
    ),
    "reduced early": (
        GOOD_COMMS, "0B1,0REDUCE_GRAD", "0REDUCE_GRAD,0B1", "wrong-collective",
        "1:49: 0REDUCE_GRAD",
    ),
    "forward after the reduction": (
        GOOD_COMMS, "0REDUCE_GRAD", "0REDUCE_GRAD,0F0", "runs-twice", "1:66: 0F0",
    ),
    "not sent": (GOOD_COMMS, "0SEND_F1,", "", "unmatched-message", "2:27: 1RECV_F1"),
    "not received": (GOOD_COMMS, "1RECV_F1,", "", "unmatched-message", "1:18: 0SEND_F1"),
    "sent early": (GOOD_COMMS, "0F1,0SEND_F1", "0SEND_F1,0F1", "too-early", "1:14: 0SEND_F1"),
    "received late": (GOOD_COMMS, "1RECV_F1,1F1", "1F1,1RECV_F1", "too-early", "2:27: 1F1"),
    "backward left out": (
        GOOD_COMMS, "0RECV_B0,0B0,", "", "left-out", "1:52: ",
    ),
    "waits in a circle": (
        GOOD_COMMS.replace("1B0,1SEND_B0,1RECV_F1,1F1,", "1RECV_F1,1F1,1B0,1SEND_B0,"),
        "0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,",
        "0SEND_F0,0RECV_B0,0B0,0F1,0SEND_F1,",
        "deadlock",
        "1:23: 0B0",
    ),
    "gathered late": (
        GOOD_COMMS, "0F0,0SEND_F0,", "0F0,0SEND_F0,0UNSHARD,", "wrong-collective", "1:1: 0F0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_pytorch_accepts_and_gets_wrong_is_refused(what: str, tmp_path: Path) -> None:
    good, old, new, code, place = WRONG[what]
    text = good.replace(old, new, 1)
    assert text != good and not findings(good)
    found = {one.code: one for one in reversed(findings(text))}
    assert code in found
    span = found[code].labels[0].span
    cell = text.splitlines()[span.line - 1][span.column - 1 : span.end_column - 1]
    assert f"{span.line}:{span.column}: {cell}" == place
    if "SEND" in text:  # PyTorch checks next to nothing of what has messages
        assert loads(tmp_path, text, 2, 1, "compute_comms") or code == "left-out"
        if "UNSHARD" not in text:
            assert not plays(text, 2)


def test_pytorch_loads_without_a_word_what_is_wrong(tmp_path: Path) -> None:
    """The list of the facts: duplicates, micro-batches that are none, losses mixed up."""
    loaded = {
        what
        for what, (good, old, new, *_) in WRONG.items()
        if good is GOOD and loads(tmp_path, good.replace(old, new, 1), 2, 1, "compute_only")
    }
    assert loaded >= {"forward twice", "losses mixed up"}


def test_pytorchs_own_1f1b_is_refused() -> None:
    """Its table runs the last rank's forwards from micro-batch 1 on."""
    for ranks, many in ((2, 4), (4, 8), (3, 5)):
        made = schedules.Schedule1F1B(stages(ranks, 1)[0], many, loss_fn=lambda *_: None)
        order = made._get_pipeline_order()
        assert order is not None
        text = "".join(",".join(str(a or "") for a in order[r]) + "\n" for r in range(ranks))
        found = findings(text)
        assert {"no-such-operation", "left-out"} <= {one.code for one in found}
        assert {one.labels[0].span.line for one in found if one.code == "left-out"} == {ranks}


# ---------------------------------------------------------------------------- broken on purpose


def mutants(text: str, random: Random) -> list[str]:
    """Good tables with one cell dropped, doubled, exchanged with the next, moved, or made that of
    another micro-batch or stage."""
    rows = [row.split(",") for row in text.split()]
    found = []
    for r, row in enumerate(rows):
        for i, cell in enumerate(row):
            stage, word, batch = re.fullmatch(r"(\d+)([A-Z_]+)(\d*)", cell).groups()  # type: ignore[union-attr]
            if word in ("UNSHARD", "RESHARD"):
                continue
            j = random.randrange(len(row))
            moved = row[:i] + row[i + 1 :]
            moved.insert(j, cell)
            changed = [
                row[:i] + row[i + 1 :],
                [*row[: i + 1], cell, *row[i + 1 :]],
                [*row[:i], *reversed(row[i : i + 2]), *row[i + 2 :]],
                moved,
                [*row[:i], f"{int(stage) + 1}{word}{batch}", *row[i + 1 :]],
            ]
            if batch:
                changed.append([*row[:i], f"{stage}{word}{int(batch) + 1}", *row[i + 1 :]])
            found += [[*rows[:r], one, *rows[r + 1 :]] for one in changed]
    return ["".join(",".join(row) + "\n" for row in mutant) for mutant in found]


@pytest.mark.parametrize(
    ("name", "ranks", "many"), [("interleaved_1f1b", 2, 2), ("zb_v", 2, 3), ("dualpipe_v", 2, 4)]
)
def test_whatever_is_broken_is_seen(name: str, ranks: int, many: int, tmp_path: Path) -> None:
    """And nothing else: a table passes if and only if, played as PyTorch plays it, it is right."""
    text = dumped(tmp_path, name, ranks, many, 2, "compute_comms")
    text = re.sub(r"\(([^;()]*);([^;()]*)\)OVERLAP_F_B", r"\1,\2", text)
    text = re.sub(r"\d+(UN|RE)SHARD,?", "", text).replace(",\r\n", "\n").replace("\r\n", "\n")
    assert plays(text, many) and not findings(text)
    tried = seen = 0
    for mutant in mutants(text, Random(1)):
        tried, seen = tried + 1, seen + bool(findings(mutant, TableSizes(microbatches=many)))
        assert bool(findings(mutant, TableSizes(microbatches=many))) != plays(mutant, many), mutant
    assert tried > 200 and seen > tried / 2


# ---------------------------------------------------------------------------- hostile tables

HOSTILE = {
    "bom": "\ufeff" + GOOD,
    "semicolons": GOOD.replace(",", ";"),
    "tabs": GOOD.replace(",", "\t"),
    "open quote": GOOD.replace("0F1", '"0F1'),
    "lone carriage returns": GOOD.replace("\n", "\r"),
    "comment": GOOD.replace("0F0", "0F0 # first"),
    "no action": GOOD.replace("0F0", "=cmd|'/c calc'!A1"),
    "no micro-batch": GOOD.replace("0F1", "0FOO"),
    "two in a cell": GOOD.replace("0F0,0F1", "0F0;0F1"),
    "half a pair": GOOD.replace("0F1", "(0F1)OVERLAP_F_B"),
    "pair of words": GOOD.replace("0F1", "(0F1;hello)OVERLAP_F_B"),
    "blank line": GOOD.replace("\n", "\n\n", 1),
    "blank line at the end": GOOD + "\n",
    "nothing": "",
    "blanks": "  ,\n , \n",
    "a stage far away": GOOD.replace("1B1", "1B1,999999999F0"),
    "digits": GOOD.replace("0F1", "0F" + "9" * 5000),
    "a cell of a megabyte": GOOD.replace("0F1", "0F1" + "x" * (1 << 20)),
    "a quoted megabyte": GOOD.replace("0F1", '"' + "0F1," * (1 << 18) + '"'),
    "empty cell among messages": GOOD_COMMS.replace("0F1", "0F1,"),
    "escapes": GOOD.replace("0F1", "\x1b]0;pwn\x07\u202e"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_tables_are_refused(what: str) -> None:
    text = HOSTILE[what]
    found = findings(text)
    assert found
    for format in ("full", "concise", "github", "json"):
        words = render(found, [Source("t.csv", text)], format)
        assert len(words) < 60_000 and "\x1b" not in words


def test_what_is_only_unusual_is_read() -> None:
    assert not findings(GOOD.replace("\n", "\r\n"))
    assert not findings(GOOD.removesuffix("\n"))
    assert not findings(GOOD.replace("0F1", ' "0F1"').replace("1B0", " 1B0\t"))
    assert not findings(GOOD.replace("0B0", ",,0B0"))


def test_millions_of_commas_are_read_in_seconds() -> None:
    text = GOOD.replace("0F1", "0F1" + "," * 5_000_000) + "," * 5_000_000
    assert [one.code for one in findings(text)] == ["table-size"]
    assert len(findings("0F0," * 100_000 + "\n")) < 300
    with pytest.raises(Rejected, match="more than 10 operations"):
        read(Source("t.csv", "0F0," * 5_000_000), 10)


def test_a_table_of_too_many_cells_is_refused() -> None:
    with pytest.raises(Rejected, match="are the most"):
        understood(read(Source("t.csv", GOOD), MOST_ACTIONS), None, most=7)
    with pytest.raises(Rejected, match="are the most"):
        understood(read(Source("t.csv", GOOD), MOST_ACTIONS), TableSizes(microbatches=10**9))


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        (TableSizes(ranks=3), "the table has 2 rows, and there are 3 ranks"),
        (TableSizes(microbatches=3), "the table has 2 micro-batches, and there are to be 3"),
        (TableSizes(placement="v"), ""),
    ],
)
def test_sizes_that_are_given_must_be_those_of_the_table(sizes: TableSizes, words: str) -> None:
    messages = [one.message for one in findings(GOOD, sizes)]
    assert any(words in message for message in messages) if words else not messages


def test_a_stage_is_where_the_placement_puts_it(tmp_path: Path) -> None:
    text = dumped(tmp_path, "zb_v", 2, 4, 2, "compute_only")
    (one,) = findings(text, TableSizes(placement="loop"))
    assert one.message == "stage 2 is on rank 1, with placement `loop` on rank 0"
