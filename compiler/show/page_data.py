"""View → the data of the page that `html` writes, as one object of plain lists: what the modules in
`page/` read into typed arrays.

A page holds `plans`, one today, drawn one below the other. A plan has *lanes*, one for every rank
and stream, and its bars stand in one long sequence, lane after lane: a bar is its place there.
Everything that many bars share (kind, stage, colour, line) stands once in `whats`; what differs
stands in columns. Times are ticks, sizes grains, -1 is none.
"""

from itertools import accumulate
from typing import Any

from stretto.compiler.analysis.beside import path_to_the_end
from stretto.compiler.analysis.critical_path import held_up_by
from stretto.compiler.analysis.explanation import explained_stretch
from stretto.compiler.analysis.idle import CAUSES, WAITS
from stretto.compiler.analysis.slack import slack
from stretto.compiler.analysis.units import UnitIndex, unit_name
from stretto.compiler.problem.kinds import KINDS
from stretto.compiler.problem.spec import NONE, Operation
from stretto.compiler.program.timeline import Timed
from stretto.compiler.show.kinds import STYLES, in_order
from stretto.compiler.show.palette import LIGHTER, Shade, colour
from stretto.compiler.show.summary import figures
from stretto.compiler.show.text_hidden import hidden_table
from stretto.compiler.show.view import View
from stretto.compiler.units import UNITS

Columns = dict[str, list[Any]]


def page_data(*views: View) -> dict[str, Any]:
    """The object; the plans in the order in which they are drawn."""
    return {"plans": [plan_data(view) for view in views]}


def plan_data(view: View) -> dict[str, Any]:
    """One plan."""
    spec = view.spec
    shades = shades_of(view)
    lanes = lanes_of(view)
    every = [bar for lane in lanes.values() for bar in lane]
    bars, whats = bars_of(view, every, shades)
    hidden_head, hidden_rows = hidden_table(view)
    return {
        "schedule": spec.name,
        "figures": figures(view.summary),
        "time": spec.time_unit,
        "size": spec.size_unit * UNITS.get(spec.sizes_in, 1),
        "sizes": spec.sizes_in,
        "makespan": view.claims.makespan,
        "ranks": spec.ranks,
        "streams": spec.streams or ("compute",),
        "lanes": [*lanes],
        "pipelines": [pipeline.name for pipeline in spec.pipelines],
        "kinds": {kind: KINDS[kind].name for kind in in_order(kind for kind, _, _ in shades)},
        "shades": [shade_data(view, *shade) for shade in shades],
        "whats": whats,
        "first": offsets(lanes.values()),
        "bars": bars,
        "causes": [WAITS[cause] for cause in CAUSES],
        "idle": idle_of(view),
        "memory": {
            "first": offsets(view.memory),
            "tick": [level.tick for curve in view.memory for level in curve],
            "grains": [level.grains for curve in view.memory for level in curve],
        },
        "peaks": view.claims.activations,
        "limits": [limit.grains if limit else NONE for limit in spec.limits],
        "hidden": {"head": hidden_head, "rows": hidden_rows},
        "beside": beside_of(view),
        "chain": chain_of(view, every),
        "sources": [{"name": source.name, "text": source.text} for source in view.sources],
    }


def lanes_of(view: View) -> dict[tuple[int, int], list[Timed]]:
    """The bars of every lane, by rank and stream; other streams than the first only where a rank
    has something on them."""
    found: dict[tuple[int, int], list[Timed]] = {lane: [] for lane in view.streams}
    for rank, bars in enumerate(view.lanes):
        for bar in bars:
            found[rank, bar.stream].append(bar)
    return found


def offsets(rows: Any) -> list[int]:
    """Where each row begins in the sequence of all, and behind them where that ends."""
    return [0, *accumulate(map(len, rows))]


# ---------------------------------------------------------------------------- colours


def shade_of(view: View, operation: Operation) -> Shade:
    """The colour of the operation; places that look alike are one."""
    kind, pipeline, stage = operation[:3]
    return kind, pipeline, min(view.chunks[pipeline, stage], len(LIGHTER) - 1)


def shades_of(view: View) -> list[Shade]:
    """All colours that occur, in the order of legends."""
    stages = {bar.operation[:3]: bar.operation for lane in view.lanes for bar in lane}
    seen = {shade_of(view, operation) for operation in stages.values()}
    kinds = in_order(kind for kind, _, _ in seen)
    return [shade for kind in kinds for shade in sorted(seen) if shade[0] == kind]


def shade_data(view: View, kind: str, pipeline: int, place: int) -> dict[str, Any]:
    """A colour with what it stands for, in words."""
    words = KINDS[kind].name
    if len(view.spec.pipelines) > 1:
        words += f" {view.spec.pipelines[pipeline].name}"
    if any(chunk for (p, _), chunk in view.chunks.items() if p == pipeline):
        which = ("first", "second", "third", "fourth and further")[place]
        words += f", {which} stage of a rank"
    paint = colour(kind, pipeline, place)
    return {
        "kind": kind,
        "pipeline": pipeline,
        "paint": [*paint],
        "ink": str(paint.ink),
        "texture": STYLES[kind].texture,
        "words": words,
    }


# ---------------------------------------------------------------------------- bars


def bars_of(view: View, bars: list[Timed], shades: list[Shade]) -> tuple[Columns, list[list[Any]]]:
    """The columns of all bars, and the table that their column `what` refers to.

    `held`: grains on the rank before the bar's unit starts. `after`: the bar that it came right
    after, as in the critical chain. What bar n needs stands in `needs` from `first_need[n]` on: the
    bar that made it, and in `lag` the ticks until it is there."""
    slacks = {
        bar.operation: ticks
        for lane, row in zip(view.lanes, slack(view.program, view.timeline), strict=True)
        for bar, ticks in zip(lane, row, strict=True)
    }
    found: Columns = {
        "microbatch": [bar.operation.microbatch for bar in bars],
        "start": [bar.start for bar in bars],
        "end": [bar.end for bar in bars],
        "slack": [slacks[bar.operation] for bar in bars],
        **waits_of(view, bars),
    }
    found["what"], whats = whats_of(view, bars, shades)
    if any(bar.operation.slice != NONE for bar in bars):
        found["slice"] = [bar.operation.slice for bar in bars]
    if any(bar.unit != NONE for bar in bars):
        found["unit"] = [bar.unit for bar in bars]
    return found, whats


def whats_of(
    view: View, bars: list[Timed], shades: list[Shade]
) -> tuple[list[int], list[list[Any]]]:
    """For every bar its row, and the rows: kind, pipeline, stage, part, layer, place in `shades`,
    source, line, grains taken at the start and given back at the end."""
    places = {source.name: n for n, source in enumerate(view.sources)}
    rows: list[list[Any]] = []
    known: dict[tuple[Any, ...], int] = {}
    column = []
    for bar in bars:
        operation = bar.operation
        effect = view.effects[operation]
        key = (*operation[:3], operation.part, bar.at, effect)
        if key not in known:
            known[key] = len(rows)
            span = view.span(bar)
            source = places.get(span.file, NONE) if span else NONE
            line = span.line if span and source != NONE else 0
            shade = shades.index(shade_of(view, operation))
            part = part_of(view, operation)
            rows.append([*key[:3], *part, shade, source, line, effect.alloc, effect.free])
        column.append(known[key])
    return column, rows


def part_of(view: View, operation: Operation) -> tuple[str | None, int]:
    """The operation's part and its layer; None where it is a whole."""
    if operation.part == NONE:
        return None, NONE
    part = view.spec.parts[operation.pipeline][operation.stage][operation.part]
    return part.name, part.layer


def waits_of(view: View, bars: list[Timed]) -> Columns:
    """What every bar needs, and what it came right after."""
    timed = view.timed
    numbers = {bar.operation: n for n, bar in enumerate(bars)}
    found: Columns = {"needs": [], "lag": [], "first_need": [0], "after": [], "held": []}
    needs, lags = found["needs"], found["lag"]
    for bar in bars:
        for other, lag in timed.dependencies.needs(bar.operation):
            needs.append(numbers[other])
            lags.append(lag)
        found["first_need"].append(len(needs))
    ends = [bar.end for bar in bars]
    for number, bar in enumerate(bars):
        lane, at = timed.unit_of[bar.operation]
        unit = timed.units[lane][at]
        after: UnitIndex | None = None
        for one in map(numbers.__getitem__, unit.names) if len(unit.names) > 1 else (number,):
            for k in range(found["first_need"][one], found["first_need"][one + 1]):
                index = timed.unit_of[bars[needs[k]].operation]
                if after is None and ends[needs[k]] + lags[k] == bar.start and index != (lane, at):
                    after = index
        if after is None and at and timed.units[lane][at - 1].end == bar.start:
            after = lane, at - 1
        elif after is None and bar.start > 0:
            after, _ = held_up_by(timed, lane, at)
        names = timed.units[after[0]][after[1]].names if after else ()
        found["after"].append(numbers[names[0]] if names else NONE)
        found["held"].append(unit.held)
    return found


# ---------------------------------------------------------------------------- the rest


def idle_of(view: View) -> Columns:
    """The idle stretches of all lanes: their causes by number, in the words of `explain` why."""
    rows = [[one for one in view.idle[r] if one.stream == s] for r, s in view.streams]
    stretches = [one for row in rows for one in row]
    return {
        "first": offsets(rows),
        "start": [one.start for one in stretches],
        "end": [one.end for one in stretches],
        "cause": [CAUSES.index(one.cause) for one in stretches],
        "why": [one.why.replace("`", "") for one in stretches],
    }


def beside_of(view: View) -> Columns:
    """What runs beside the computations, rank by rank."""
    rows = view.timeline.collectives or ((),) * view.spec.ranks
    collectives = [one for row in rows for one in row]
    lines = view.spec.pipelines
    return {
        "first": offsets(rows),
        "start": [one.start for one in collectives],
        "end": [one.end for one in collectives],
        "words": [f"{one.what} {lines[one.pipeline].name}[{one.stage}]" for one in collectives],
    }


def chain_of(view: View, bars: list[Timed]) -> list[int]:
    """The bars of the critical chain that `explain` tells, first to last; of a pair the first."""
    first, _, rank = explained_stretch(view.program, view.timeline)
    links = path_to_the_end(view.timed, rank)
    wanted = {
        (link.rank, link.stream, link.start, link.operation)
        for link in links
        if link.end > first or not first
    }
    numbers = {bar.operation: n for n, bar in enumerate(bars)}
    found = []
    starts = {one[:3] for one in wanted}
    for lane, units in enumerate(view.timed.units):
        place = view.timed.place(lane)
        for unit in units:
            if (*place, unit.start) not in starts:
                continue
            if (*place, unit.start, unit_name(view.spec, unit)) in wanted:
                found.append((unit.start, unit.end, numbers[unit.names[0]]))
    return [number for _, _, number in sorted(found)]
