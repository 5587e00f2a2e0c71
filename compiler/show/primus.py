"""`show --format primus`: the order as the schedule table of AMD's Primus, a row for each rank.
`(F|0|1)` is the type of the node, its micro-batch and its chunk, as its nodes print themselves; `B`
is there the input gradient, `BW` the whole backward. A message says more: `(SF|0|1|2|0|17)` is sent
to chunk 0 of rank 2 (of a receive: comes from there) in the time step 17. `docs/tables.md` has the
lines that make nodes of them.

Primus exchanges what it finds side by side with the same time step at once, and waits for it. Here
every message has a time step of its own, and stands behind the computation that makes it, on both
ranks at the same moment of one sequence of all computations: so both lists have the messages in one
sequence, and nobody waits for one that waits for him. A message within a rank has both its nodes.
"""

from collections.abc import Iterator

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Rejected
from stretto.compiler.problem.spec import Spec, show
from stretto.compiler.show.rank_lists import Unfit, is_v, unfit
from stretto.compiler.show.torch_comms import Cell, sequence
from stretto.compiler.show.view import View

WORDS = {"F": "F", "I": "B", "W": "W", "B": "BW"}


def draw(view: View) -> str:
    """The rows. Rejected where Primus cannot run the schedule."""
    reasons = [refused(one, view.spec) for one in (*unfit(view), *_unsplit(view))]
    if reasons:
        raise Rejected(reasons)
    computed: list[list[Cell]] = [
        [(bar.operation.kind, bar.operation.stage, bar.operation.microbatch) for bar in lane]
        for lane in view.lanes
    ]
    return "".join(",".join(row) + "\n" for row in _rows(view, computed))


def _rows(view: View, computed: list[list[Cell]]) -> list[list[str]]:
    place = [stage.rank for stage in view.spec.pipelines[0].stages]
    rows: list[list[str]] = [[] for _ in computed]
    for step, (rank, number) in enumerate(sequence(view, computed)):
        kind, stage, microbatch = computed[rank][number]
        chunk = stage // len(rows)
        rows[rank].append(f"({WORDS[kind]}|{microbatch}|{chunk})")
        to = stage + 1 if kind == "F" else stage - 1
        if kind == "W" or not 0 <= to < len(place):
            continue
        traffic, there = "F" if kind == "F" else "B", to // len(rows)
        rows[rank].append(f"(S{traffic}|{microbatch}|{chunk}|{place[to]}|{there}|{step})")
        rows[place[to]].append(f"(R{traffic}|{microbatch}|{there}|{rank}|{chunk}|{step})")
    return rows


def _unsplit(view: View) -> Iterator[Unfit]:
    """With several stages on a rank in a loop, Primus computes weight gradients in the backward,
    and fails at a W."""
    spec = view.spec
    if is_v(spec) or len(spec.pipelines[0].stages) == spec.ranks:
        return
    for bar in (bar for lane in view.lanes for bar in lane if bar.operation.kind in ("I", "W")):
        what = "it splits no backward in a loop of several turns, and there is"
        yield Unfit(f"{what} `{show(spec, bar.operation)}`", bar.at)
        return


def refused(reason: Unfit, spec: Spec) -> Diagnostic:
    """The diagnostic that the table cannot hold the schedule."""
    return Diagnostic(
        "not-in-primus",
        f"Primus's table cannot hold this schedule: {reason.why}",
        reason.labels(spec),
        help="`--format json` holds every schedule",
    )
