"""What runs beside the computations, as links of the critical path: weights that a first forward
waits for, and the gradients that are reduced last."""

from stretto.compiler.analysis.critical_path import Link, critical_path
from stretto.compiler.analysis.timed_program import TimedProgram
from stretto.compiler.problem.spec import Spec
from stretto.compiler.program.timeline import Collective, Timeline


def path_to_the_end(timed: TimedProgram, rank: int) -> tuple[Link, ...]:
    """The critical path that ends with all that `rank` does, what runs beside included."""
    last = _last(timed.timeline, rank)
    if last:
        begun = last[0].start
        where = next((r for r in [rank, *range(timed.spec.ranks)] if _ends(timed, r, begun)), rank)
        links = critical_path(timed, where, begun)
    else:
        links = critical_path(timed, rank)
    links = (*_gathers(timed, links), *links)
    before = "the last gradient of its weights"
    for one in last:
        links = (*links, _link(timed.spec, one, rank, f"comes after {before}"))
        before = f"`{_name(timed.spec, one)}`"
    return links


def _ends(timed: TimedProgram, rank: int, tick: int) -> bool:
    """Whether an operation of the rank ends then."""
    return any(unit.end == tick for lane in timed.lanes(rank) for unit in timed.units[lane])


def ending_rank(timeline: Timeline) -> int | None:
    """The rank whose gradients are reduced last, where that ends the step."""
    for rank, row in enumerate(timeline.collectives):
        if any(one.end == timeline.makespan > timeline.computed for one in row):
            return rank
    return None


def _last(timeline: Timeline, rank: int) -> list[Collective]:
    """The reductions of the rank, one right after another, that end with the step."""
    found: list[Collective] = []
    row = timeline.collectives[rank] if timeline.collectives else ()
    for one in reversed(row):
        if one.what == "reduce gradients":
            wanted = found[0].start if found else timeline.makespan
            if one.end != wanted or timeline.makespan <= timeline.computed:
                break
            found.insert(0, one)
    return found


def _gathers(timed: TimedProgram, links: tuple[Link, ...]) -> list[Link]:
    """The gatherings of weights before the first link, where that waits for them."""
    first = links[0] if links else None
    if first is None or not timed.timeline.collectives or first.start == 0:
        return []
    found: list[Link] = []
    for one in timed.timeline.collectives[first.rank]:
        if one.what == "unshard weights" and one.end <= first.start:
            why = f"comes after {found[-1].operation}" if found else "starts the step"
            found.append(_link(timed.spec, one, first.rank, why))
    return found if found and found[-1].end == first.start else []


def _link(spec: Spec, one: Collective, rank: int, why: str) -> Link:
    return Link(f"`{_name(spec, one)}`", rank, one.start, one.end, None, why)


def _name(spec: Spec, one: Collective) -> str:
    """`reduce gradients main[3]`."""
    return f"{one.what} {spec.pipelines[one.pipeline].name}[{one.stage}]"
