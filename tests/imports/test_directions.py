"""Of messages that hold each other up, what is warned of is what an explorer finds: it goes through
every interleaving of random tables that are proved, whose ranks take all messages one by one, or
whose pairs of ranks have a communicator each."""

from collections import Counter
from random import Random
from re import findall, fullmatch

import pytest

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Rejected
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.driver import compile_text, plan_of
from stretto.compiler.imports.communicating import communicating
from stretto.compiler.imports.directions import crossing
from stretto.compiler.imports.readers import READERS
from stretto.compiler.imports.table import TableSizes
from stretto.compiler.imports.understand import understood
from stretto.compiler.order.budget import Budget
from stretto.compiler.show import draw

Rows = list[list[str]]
Message = tuple[str, int, int]  # `F` or `B`, the stage that makes it, the micro-batch


def message(cell: str) -> Message | None:
    found = fullmatch(r"(\d+)(SEND|RECV)_([FB])(\d+)", cell)
    if not found:
        return None
    stage, side, kind, many = int(found[1]), found[2], found[3], int(found[4])
    made = stage if side == "SEND" else stage + (-1 if kind == "F" else 1)
    return kind, made, many


def input_of(cell: str, stages: int) -> Message | None:
    """What a computation uses of another stage."""
    found = fullmatch(r"(\d+)([FBI])(\d+)", cell)
    if not found:
        return None
    stage, kind, many = int(found[1]), found[2], int(found[3])
    if kind == "F":
        return ("F", stage - 1, many) if stage else None
    return ("B", stage + 1, many) if stage < stages - 1 else None


def ranks_of(rows: Rows) -> dict[Message, tuple[int, int]]:
    place = {int(s): r for r, row in enumerate(rows) for s in findall(r"(\d+)F\d", " ".join(row))}
    return {
        one: (place[one[1]], place[one[1] + (1 if one[0] == "F" else -1)])
        for row in rows
        for cell in row
        if (one := message(cell))
    }


def finish_one_by_one(rows: Rows) -> set[bool]:
    """Whether all ranks come to their ends, over all interleavings, if each takes its messages one
    by one and one is over when both ranks stand at it."""
    lists = [[one for cell in row if (one := message(cell))] for row in rows]
    between = ranks_of(rows)
    todo, seen, found = [(0,) * len(rows)], {(0,) * len(rows)}, set[bool]()
    while todo:
        at = todo.pop()
        heads = [row[k] if k < len(row) else None for k, row in zip(at, lists, strict=True)]
        following = {
            tuple(k + (r in between[one]) for r, k in enumerate(at))
            for one in heads
            if one and all(heads[r] == one for r in between[one])
        }
        if not following:
            found.add(not any(heads))
        todo += following - seen
        seen |= following
    return found


def finish_by_pairs(rows: Rows) -> set[bool]:
    """Likewise if messages are begun as they stand, only a computation waits for its input, and
    those of each two ranks go one by one, to and fro in one sequence."""
    between = ranks_of(rows)
    pairs = sorted({(min(ends), max(ends)) for ends in between.values()})
    stages = 1 + max(int(cell) for row in rows for cell in findall(r"(\d+)F\d", " ".join(row)))

    def own(rank: int, upto: int, pair: tuple[int, int]) -> list[Message]:
        begun = [message(cell) for cell in rows[rank][:upto]]
        return [one for one in begun if one and sorted(between[one]) == list(pair)]

    start = (0,) * len(rows), (0,) * len(pairs)
    todo, seen, found = [start], {start}, set[bool]()
    while todo:
        at, over = todo.pop()
        done = {
            one
            for (low, high), many in zip(pairs, over, strict=True)
            for one in own(low, len(rows[low]), (low, high))[:many]
        }
        following = set()
        for rank, row in enumerate(rows):
            if at[rank] < len(row):
                needed = input_of(row[at[rank]], stages)
                if needed not in between or rank == between[needed][0] or needed in done:
                    following.add(((*at[:rank], at[rank] + 1, *at[rank + 1 :]), over))
        for k, (low, high) in enumerate(pairs):
            a, b = own(low, at[low], (low, high)), own(high, at[high], (low, high))
            if over[k] < min(len(a), len(b)) and a[over[k]] == b[over[k]]:
                following.add((at, (*over[:k], over[k] + 1, *over[k + 1 :])))
        if not following:
            found.add(all(k == len(row) for k, row in zip(at, rows, strict=True)))
        todo += following - seen
        seen |= following
    return found


def warnings(rows: Rows) -> list[Diagnostic]:
    """Of a table that is proved. Raises `Rejected`."""
    text = "\n".join(",".join(row) for row in rows) + "\n"
    table = READERS["torch-csv"](Source("t.csv", text), 10_000, None)
    spec = understood(table, TableSizes(len(rows)), 10_000, "t")
    plan_of(communicating(table, spec))
    return [*crossing(table, spec)]


def made(ranks: int, stages: int, many: int) -> Rows:
    text = f"""schedule ring ranks {ranks} microbatches {many}
        pipeline main {{ stages {stages} place s -> s % ranks }}"""
    plan = compile_text(text, "ring.pipe", budget=Budget(effort=0))
    drawn = draw(plan, "torch-csv", dialect="compute_comms")
    return [line.split(",") for line in drawn.split()]


def shuffled(rows: Rows, random: Random) -> Rows:
    """Some messages earlier or later in their rows, a few places or to where they still may be."""
    rows = [list(row) for row in rows]
    for _ in range(random.choice([1, 2, 4, 8])):
        row = random.choice(rows)
        at = random.choice([k for k, cell in enumerate(row) if message(cell)])
        cell = row.pop(at)
        row.insert(max(0, at + random.choice([-3, -2, -1, 1, 2, 3])), cell)
    return rows


@pytest.mark.parametrize("many", [1, 2])
def test_warned_of_is_what_an_explorer_finds(many: int) -> None:
    random, told = Random(many), Counter[str]()
    shapes = [made(ranks, ranks + 1, many) for ranks in (2, 3, 4)[: 4 - many]]
    while told.total() < 120:
        rows = shuffled(random.choice(shapes), random)
        try:
            found = warnings(rows)
        except Rejected:
            continue
        codes = {one.code for one in found}
        assert finish_one_by_one(rows) == {not codes}, (rows, found)
        if "messages-cross" not in codes:
            assert finish_by_pairs(rows) == {True}, rows
        for one in found:
            if one.code == "messages-circle":
                assert len({label.span.line for label in one.labels}) > 2, (rows, one)
        told[" and ".join(sorted(codes)) or "nothing"] += 1
    print(dict(told))
    assert min(told["messages-circle"], told["messages-cross"], told["nothing"]) > 10
