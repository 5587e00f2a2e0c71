"""`show --format torch-csv --dialect compute_comms`: the order with its messages, as
`torch.distributed.pipelining` runs it without working out anything by itself.

torch sends all messages of two ranks in one sequence, without names, and NCCL has one communicator
for both ways between them. Hence the computations of all ranks are gone through in one sequence, by
start, each after what it needs; a message enters the sender's list and the receiver's at the same
moment, right behind the computation that makes it. So both lists have the messages of two ranks in
one sequence, and no rank can wait for one that waits for it, even if every message blocked.
"""

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from stretto.compiler.problem.spec import Spec
from stretto.compiler.show.view import View

Cell = tuple[str, int, int]
"""A computation of torch's: its word, stage and micro-batch."""


def with_messages(view: View, computed: list[list[Cell]]) -> list[list[str]]:
    """The cells of every rank, from its computations in sequence."""
    place = [stage.rank for stage in view.spec.pipelines[0].stages]
    rows: list[list[str]] = [_gathered(view.spec, rank, row) for rank, row in enumerate(computed)]
    last = {
        (stage, rank): k for rank, row in enumerate(computed) for k, (_, stage, _) in enumerate(row)
    }
    for rank, number in sequence(view, computed):
        word, stage, microbatch = computed[rank][number]
        rows[rank].append(f"{stage}{word}{microbatch}")
        traffic = "F" if word == "F" else "B"
        to = stage + 1 if word == "F" else stage - 1
        if word != "W" and 0 <= to < len(place) and place[to] != rank:
            rows[rank].append(f"{stage}SEND_{traffic}{microbatch}")
            rows[place[to]].append(f"{to}RECV_{traffic}{microbatch}")
        if last[stage, rank] == number:
            rows[rank].append(f"{stage}REDUCE_GRAD")
    for rank, row in enumerate(computed):
        stages = dict.fromkeys(stage for _, stage, _ in row) if view.spec.unshard_weights else {}
        rows[rank] += [f"{stage}RESHARD" for stage in stages]
    return rows


def _gathered(spec: Spec, rank: int, row: list[Cell]) -> list[str]:
    """Weights that the schedule gathers are, before the first computation."""
    if not spec.unshard_weights:
        return []
    return [f"{stage}UNSHARD" for stage in dict.fromkeys(stage for _, stage, _ in row)]


def sequence(view: View, computed: list[list[Cell]]) -> Iterator[tuple[int, int]]:
    """All computations, by rank and place, each after what it needs; else by start."""
    stages = len(view.spec.pipelines[0].stages)
    starts = {
        (bar.operation.kind, bar.operation.stage, bar.operation.microbatch): bar.start
        for lane in view.lanes
        for bar in lane
    }
    done: set[Cell] = set()
    at = [0] * len(computed)
    due = [(0, rank) for rank in range(len(computed))]
    heapify(due)
    waiting: dict[Cell, int] = {}  # what a rank waits for
    while due:
        _, rank = heappop(due)
        if at[rank] == len(computed[rank]):
            continue
        word, stage, microbatch = computed[rank][at[rank]]
        needs = _needs(word, stage, microbatch, stages)
        if needs is not None and needs not in done:
            waiting[needs] = rank
            continue
        yield rank, at[rank]
        at[rank] += 1
        made = ("F" if word == "F" else "B", stage, microbatch)
        if word != "W":
            done.add(made)
            if made in waiting:
                other = waiting.pop(made)
                heappush(due, (starts.get(computed[other][at[other]], 0), other))
        if at[rank] < len(computed[rank]):
            heappush(due, (starts.get(computed[rank][at[rank]], 0), rank))


def _needs(word: str, stage: int, microbatch: int, stages: int) -> Cell | None:
    """The result of another stage that the computation uses."""
    if word == "F" and stage > 0:
        return "F", stage - 1, microbatch
    if word in ("B", "I") and stage < stages - 1:
        return "B", stage + 1, microbatch
    return None
