"""What PyTorch itself writes, loads and runs of CSV tables: oracles that we did not write, and one
that plays a `compute_comms` table as PyTorch's runtime would, with names in place of tensors."""

from collections import defaultdict, deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch.distributed.pipelining import schedules

from tests.support.torch_tables import CLASSES


def stages(ranks: int, chunks: int, rank: int = 0) -> Any:
    """Stages that only know their place."""
    return [
        SimpleNamespace(
            num_stages=ranks * chunks,
            group_size=ranks,
            group_rank=rank,
            stage_index=ranks * chunk + rank,
            is_first=chunk == 0 and rank == 0,
            is_last=chunk == chunks - 1 and rank == ranks - 1,
            submod=None,
            has_backward=True,
        )
        for chunk in range(chunks)
    ]


def dumped(path: Path, name: str, ranks: int, microbatches: int, chunks: int, dialect: str) -> str:
    """The CSV of PyTorch's schedule that is `name` in our library. Raises `ValueError` for sizes
    that PyTorch refuses."""
    made = CLASSES[name](stages(ranks, chunks), microbatches, loss_fn=lambda *_: None)
    file = path / "dumped.csv"
    made._dump_csv(str(file), format=dialect)
    with file.open(newline="") as stream:
        return stream.read()


def loads(path: Path, text: str, microbatches: int, chunks: int, dialect: str) -> bool:
    """Whether PyTorch loads the table, and puts messages into it, without a word."""
    file = path / "loaded.csv"
    file.write_text(text, newline="")
    ranks = len(text.splitlines())
    runtime = schedules._PipelineScheduleRuntime(
        stages(ranks, chunks), microbatches, loss_fn=lambda *_: None
    )
    try:
        runtime._load_csv(str(file), format=dialect)  # type: ignore[arg-type]
    except Exception:
        return False
    return True


def plays(text: str, microbatches: int) -> bool:
    """Whether all ranks come to the end, and every gradient is what it should be: each stage's
    forward of a micro-batch gets that micro-batch's input, each backward its gradient, each loss is
    its own, and gradients are divided once, when they are complete."""
    rows: list[list[Any]] = [
        [schedules._Action.from_str(cell) for cell in row.split(",")] for row in text.split()
    ]
    place = {a.stage_index: r for r, row in enumerate(rows) for a in row if a.is_compute_op}
    run = _Run(place, microbatches)
    at = [0] * len(rows)
    moved = True
    while moved:
        moved = False
        for rank, row in enumerate(rows):
            while at[rank] < len(row) and run.step(rank, row[at[rank]]):
                at[rank] += 1
                moved = True
    finished = all(n == len(row) for n, row in zip(at, rows, strict=True))
    return finished and not run.wrong and run.complete()


class _Run:
    """Ranks, and what is on the wire: by directed pair the messages in the order they were sent,
    and the receives in the order they were posted."""

    def __init__(self, place: dict[int, int], many: int):
        self.place, self.many, self.last = place, many, max(place)
        self.sent: dict[Any, list[Any]] = defaultdict(list)
        self.posted: dict[Any, int] = defaultdict(int)
        self.waits: dict[Any, Any] = {}
        self.local: dict[Any, int] = {}
        self.done: set[Any] = set()
        self.made: dict[Any, Any] = {}
        self.losses: list[int] = []
        self.sums: dict[int, deque[Any]] = defaultdict(deque)
        self.wrong = False

    def step(self, rank: int, action: Any) -> bool:
        """Whether the rank can do it now; done, if so."""
        word, s, m = action.computation_type.value, action.stage_index, action.microbatch_index
        if word in ("SEND_F", "SEND_B"):
            peer = self.place.get(s + 1 if word == "SEND_F" else s - 1)
            if (word[-1], s, m) not in self.made or peer in (None, rank):
                self.wrong = True
            self.sent[rank, peer].append((word[-1], s, m))
        elif word in ("RECV_F", "RECV_B"):
            peer = self.place.get(s - 1 if word == "RECV_F" else s + 1)
            if peer in (None, rank) or (word, s, m) in self.waits:
                self.wrong = True
            self.waits[word, s, m] = (peer, rank), self.posted[peer, rank]
            self.posted[peer, rank] += 1
        elif word == "REDUCE_GRAD":
            self.sums[s].append("divided")
        elif word in "FBIW":
            return self.compute(rank, word, s, m)
        return True

    def compute(self, rank: int, word: str, s: int, m: int) -> bool:
        if word == "F" and s > 0 and not self.arrived(rank, "RECV_F", s, s - 1, m):
            return False
        if word in "BI" and s < self.last and not self.arrived(rank, "RECV_B", s, s + 1, m):
            return False
        needs = {"F": set(), "B": {"F"}, "I": {"F"}, "W": {"I"}}[word]
        if not all((k, s, m) in self.done for k in needs) or (word, s, m) in self.done:
            self.wrong = True
        if word == "F" and s == self.last:
            self.losses.append(m)
        if word in "BI" and s == self.last and (m >= len(self.losses) or self.losses[m] != m):
            self.wrong = True
        if word in "BW":
            self.sums[s].append(m)
        self.done.add((word, s, m))
        self.made["F" if word == "F" else "B", s, m] = True
        return True

    def arrived(self, rank: int, word: str, s: int, source: int, m: int) -> bool:
        """Whether the input is there; a wrong one is noted."""
        if self.place[source] == rank:
            return (word[-1], source, m) in self.made or self.nothing()
        if (word, s, m) not in self.waits:
            return self.nothing()
        pair, n = self.waits[word, s, m]
        if n >= len(self.sent[pair]):
            return False
        if self.sent[pair][n] != (word[-1], source, m):
            self.wrong = True
        return True

    def nothing(self) -> bool:
        self.wrong = True
        return False

    def complete(self) -> bool:
        every = set(range(self.many))
        sums = all(
            len(self.sums[s]) == self.many + 1
            and self.sums[s][-1] == "divided"
            and set(self.sums[s]) == {*every, "divided"}
            for s in self.place
        )
        return sums and all(len(sent) == self.posted[pair] for pair, sent in self.sent.items())
