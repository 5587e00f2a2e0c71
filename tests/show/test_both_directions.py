"""Messages between two ranks, to and fro, over one communicator that takes them in sequence, as
NCCL does: what `show` writes for PyTorch cannot block there, nor can what its own classes make; a
table that can is noticed here."""

from pathlib import Path
from re import findall, match

import pytest

from stretto.compiler.driver import compile_file
from stretto.compiler.show import draw
from tests.support.torch_csv import dumped
from tests.support.torch_tables import CLASSES

Message = tuple[str, int, int]
MADE = {"SEND_F": 0, "SEND_B": 0, "RECV_F": -1, "RECV_B": 1}


def messages(text: str) -> list[list[tuple[Message, frozenset[int]]]]:
    """For every rank its messages in sequence, each with the two ranks that it is between."""
    lines = text.split()
    place = {int(s): r for r, row in enumerate(lines) for s in findall(r"(\d+)[FBIW]\d", row)}
    rows = []
    for row in lines:
        found = []
        for cell in row.split(","):
            if word := match(r"(\d+)((?:SEND|RECV)_(F|B))(\d+)$", cell):
                made = int(word[1]) + MADE[word[2]]
                pair = frozenset({place[made], place[made + (1 if word[3] == "F" else -1)]})
                found.append(((word[3], made, int(word[4])), pair))
        rows.append(found)
    return rows


def finishes(text: str) -> bool:
    """Whether all ranks come to the end if each goes through its messages one by one, and one is
    over when both of its ranks have come to it."""
    rows = messages(text)
    at = [0] * len(rows)
    moved = True
    while moved:
        moved = False
        for rank, row in enumerate(rows):
            while at[rank] < len(row):
                message, pair = row[at[rank]]
                (other,) = pair - {rank}
                if at[other] == len(rows[other]) or rows[other][at[other]] != (message, pair):
                    break
                at[rank] += 1
                at[other] += 1
                moved = True
    return all(n == len(row) for n, row in zip(at, rows, strict=True))


@pytest.mark.parametrize("name", ["zb_v", "zb_h1", "interleaved_1f1b", "interleaved_zero_bubble"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_what_is_written_for_torch_cannot_block(name: str, ranks: int) -> None:
    plan = compile_file(name, ranks=ranks, microbatches=2 * ranks)
    assert finishes(draw(plan, "torch-csv", dialect="compute_comms"))


@pytest.mark.parametrize("name", CLASSES)
def test_what_torch_makes_cannot_block(name: str, tmp_path: Path) -> None:
    tried = 0
    for ranks in (2, 3, 4):
        for chunks in (2,) if name in ("zb_v", "dualpipe_v") else (1, 2, 3):
            for many in (ranks, 2 * ranks, 3 * ranks):
                try:
                    text = dumped(tmp_path, name, ranks, many, chunks, "compute_comms")
                except ValueError:  # these sizes it cannot do
                    continue
                tried += 1
                assert finishes(text)
    assert tried == {"zb_v": 9, "dualpipe_v": 6}.get(name, 27)


def test_messages_that_cross_are_noticed() -> None:
    rows = [
        "0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1",
        "1RECV_F0,1F0,1B0,1RECV_F1,1SEND_B0,1F1,1B1,1SEND_B1",
    ]
    good = "\n".join(rows)
    assert finishes(good)
    assert not finishes(good.replace("1RECV_F1,1SEND_B0", "1SEND_B0,1RECV_F1"))
