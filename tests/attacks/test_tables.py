"""Tables of other systems that are large, or made to be slow: what it costs to read one, to find
what is wrong with it, and to write it as a schedule grows as what stands in it, and a table that is
larger than there may be is refused soon, in little memory and few words."""

import gc
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from time import process_time
from typing import TypeVar

import pytest

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.imports.communicating import communicating
from stretto.compiler.imports.readable import readable
from stretto.compiler.imports.readers import READERS
from stretto.compiler.imports.understand import understood
from tests.attacks.conftest import Tally
from tests.support.command_line import STRETTO

MOST = 8  # times as long, for four times as much: 4 where it is linear, 16 where quadratic
SHORT = 0.2  # seconds of the processor below which nothing is compared
MEMORY = 3 << 30  # bytes of address space; 100 MB of text are held once as bytes and once as text
SECONDS = 30  # of the processor: a few on an idle machine
MOST_SAID = 100_000  # bytes
Made = TypeVar("Made")


def rows(cells: Iterator[list[str]]) -> str:
    return "".join(",".join(row) + "\n" for row in cells)


def weights_last(n: int) -> str:
    """All weight gradients wait until the end, and come in another sequence on each stage."""
    down = range(n)
    return rows(
        [f"{s}{kind}{m}" for kind, order in (("F", down), ("I", down), ("W", last)) for m in order]
        for s, last in ((0, down), (1, down[::-1]))
    )


def stages_in_turn(n: int) -> str:
    """One rank with so many stages, whose weight gradients come in another sequence."""
    down = range(n)
    parts = (("F", down), ("I", down[::-1]), ("W", down))
    return rows(iter([[f"{s}{kind}0" for kind, order in parts for s in order]]))


def chain(n: int) -> str:
    """So many ranks, with messages, and gradients that are averaged."""
    return rows(
        [
            *([f"{r}RECV_F0"] if r else []),
            f"{r}F0",
            *([f"{r}SEND_F0", f"{r}RECV_B0"] if r < n - 1 else []),
            f"{r}B0",
            *([f"{r}SEND_B0"] if r else []),
            f"{r}REDUCE_GRAD",
        ]
        for r in range(n)
    )


def gathered(n: int) -> str:
    """One rank with so many stages, whose weights are gathered when all is over."""
    words = [[f"{s}F0" for s in range(n)], [f"{s}B0" for s in reversed(range(n))]]
    once = [f"{s}{word}" for word in ("REDUCE_GRAD", "UNSHARD") for s in range(n)]
    return rows(iter([[*words[0], *words[1], *once]]))


def misplaced(n: int) -> str:
    """Every stage is on rank 0, and a forward of each stands on rank 1 too."""
    own = [f"{s}{kind}{m}" for s in range(n) for kind in "FB" for m in range(2)]
    return rows(iter([own, [f"{s}F0" for s in range(n)]]))


def irregular(n: int) -> str:
    """Nothing repeats itself."""
    random, words, next_ = Random(1), list[str](), [0, 0]
    while min(next_) < n:
        kind = int(next_[1] < next_[0] and (next_[0] == n or random.random() < 0.5))
        words.append(f"0{'FB'[kind]}{next_[kind]}")
        next_[kind] += 1
    return rows(iter([words]))


GROWN = {
    "weights last": weights_last,
    "stages in turn": stages_in_turn,
    "chain": chain,
    "gathered": gathered,
    "misplaced": misplaced,
    "irregular": irregular,
    "holes": lambda n: rows(iter([[f"{3 * s}F0" for s in [*range(n), 10**8]]])),
}


def costs(text: str) -> dict[str, float]:
    """Seconds of the processor for each step, as far as they come."""
    took: dict[str, float] = {}

    def timed(name: str, step: Callable[[], Made]) -> Made:
        gc.collect()
        before = process_time()
        try:
            return step()
        finally:
            took[name] = process_time() - before

    try:
        table = timed("read", lambda: READERS["torch-csv"](Source("t.csv", text), 10**6, None))
        spec = timed("understood", lambda: understood(table))
        timed("readable", lambda: readable(spec))
        if table.communicates:
            timed("communicating", lambda: communicating(table, spec))
    except Rejected as error:
        assert sum(len(one.message) for one in error.diagnostics) < MOST_SAID
    return took


@pytest.mark.parametrize("name", GROWN)
def test_it_takes_as_long_as_there_is_in_it(
    name: str, attacks: Callable[[int, int], int], tally: Tally
) -> None:
    n, make = attacks(1000, 4000), GROWN[name]
    costs(make(4))  # what a first time costs
    little, much = (costs(make(k)) for k in (n, 4 * n))
    slow = {step for step in much if much[step] > max(MOST * little[step], SHORT)}
    if slow:  # is it so again?
        tries = [[costs(make(k)) for _ in range(3)] for k in (n, 4 * n)]
        little, much = ({step: min(one[step] for one in k) for step in much} for k in tries)
    assert not {step for step in much if much[step] > max(MOST * little[step], SHORT)}
    tally(of=4 * n, milliseconds=round(1000 * sum(much.values())))


TOO_LARGE = {
    "commas": ("torch-csv", lambda: b"," * (100 << 20), "the table has no computation"),
    "one cell": ("torch-csv", lambda: b"0F" + b"0" * (10 << 20), "is no action"),
    "lines": ("primus", lambda: b"\n" * (100 << 20), "65,536 ranks are the most"),
    "a row for each of many": ("zero-bubble", lambda: b"0F0,0B0\n" * 65_537, "are the most"),
    "empty rows": ("jaxpp", lambda: b"0FWD0,0BWD0\n" + b",\n" * 65_000, "is empty"),
    "empty cells": ("megatron", lambda: b"1," + b'"",' * 900_000 + b"-1\n", "nothing that is"),
    "quotes": ("dualpipe", lambda: b'F0.0,"' + b'","' * 900_000, "nothing that is known"),
    "parentheses": ("primus", lambda: b"(" * (10 << 20), "nothing that is known"),
    "pairs": ("torch-csv", lambda: b"(0F0;" * (2 << 20), "is no action"),
    "sums": ("jaxpp", lambda: b"0FWD0" + b"+" * (10 << 20), "nothing that is known"),
    "many cells": ("torch-csv", lambda: b"0F0," * (20 << 20), "--max-ops"),
    "letters": ("megatron", lambda: "\N{PILE OF POO},".encode() * (5 << 20), "--max-ops"),
    "too many bytes": ("torch-csv", lambda: b"," * (129 << 20), "is larger than 128 MiB"),
}
SAMPLE = {"commas", "lines", "empty rows", "parentheses"}


@pytest.mark.parametrize("command", ["check", "import"])
@pytest.mark.parametrize("what", TOO_LARGE)
def test_large_tables_are_refused_soon(
    folder: Path, what: str, command: str, attacks: Callable[[int, int], int], tally: Tally
) -> None:
    if (what not in SAMPLE or command == "check") and not attacks(0, 1):
        pytest.skip("a sample is tried here, all by `make test-attacks`")
    system, made, said = TOO_LARGE[what]
    table = folder / "large.csv"
    table.write_bytes(made())

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))

    done = subprocess.run(
        [*STRETTO, command, str(table), "--from", system], capture_output=True, preexec_fn=limited
    )
    assert done.returncode in (1, 2), done.stderr[-2000:]
    assert said in done.stderr.decode()
    assert len(done.stderr) < MOST_SAID
    tally(bytes=table.stat().st_size, said=len(done.stderr))
