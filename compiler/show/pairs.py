"""The pairs of a schedule whose stages are cut into parts, as `show --format json` lists them: of
each two stages that a `|` joins how long the two take alone, and in which sequence."""

from typing import Any

from stretto.compiler.problem.spec import NONE, JoinedPair, Kind, Spec, number


def pairs(spec: Spec) -> list[dict[str, Any]]:
    """One object for each two stages, and lengths, on a rank, in the order in which the rank runs
    them first. Times are in units of the file; a Spec that was read from a plan has them too."""
    return [_pair(spec, one) for one in spec.joined]


def _pair(spec: Spec, one: JoinedPair) -> dict[str, Any]:
    halves = one.first, one.second
    return {
        "rank": one.rank,
        "first": _half(spec, one.first),
        "second": _half(spec, one.second),
        "span": number(one.span, spec.time_unit),
        "turns": number(one.turns, spec.time_unit),
        "load": [number(load, spec.time_unit) for load in one.load],
        "sequence": [_part(spec, halves[half], kind, part) for half, kind, part in one.sequence],
    }


def _half(spec: Spec, half: tuple[Kind, int, int]) -> dict[str, Any]:
    kind, p, stage = half
    return {"op": kind, "pipeline": spec.pipelines[p].name, "stage": stage}


def _part(spec: Spec, half: tuple[Kind, int, int], kind: Kind, part: int) -> dict[str, Any]:
    _, p, stage = half
    name, layer, stream = spec.parts[p][stage][part]
    return {
        "op": kind,
        "pipeline": spec.pipelines[p].name,
        "stage": stage,
        "part": name,
        "layer": None if layer == NONE else layer,
        "stream": spec.streams[stream],
    }
