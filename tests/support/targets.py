"""Specs of the ordering instances that others have solved: `optimizer_targets.json` and the proven
small ones, read without the language, so that an engine can be tried on them alone."""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import msgspec

from stretto.compiler.diagnostics.source import Span
from stretto.compiler.problem.spec import (
    Limit,
    Operation,
    Pair,
    Pipeline,
    Spec,
    Stage,
    Transfer,
    Unit,
    digest,
)

PLACES: dict[str, Callable[[int, int], int]] = {
    "linear": lambda s, ranks: s,
    "reverse": lambda s, ranks: ranks - 1 - s,
    "interleaved": lambda s, ranks: s % ranks,
    "v": lambda s, ranks: min(s, 2 * ranks - 1 - s),
}


def target(row: dict[str, Any]) -> Spec:
    """The Spec of one row of `optimizer_targets.json`."""
    ranks = row["ranks"]
    pipelines = row["pipelines"]
    limit = row["limit"]
    sizes = [Fraction(str(p.get(k, 1))) for p in pipelines for k in ("activation", "after_I")]
    limits = limit if isinstance(limit, list) else [limit] * ranks
    sizes += [Fraction(str(x)) for x in limits if x is not None]
    unit = max(x.denominator for x in sizes)
    made = []
    first = 0
    copies = row["id"].startswith(("bi-", "dual-"))  # of one model; else each is its own
    for at, p in enumerate(pipelines):
        count = p.get("stages") or (2 * ranks if p["place"] == "v" else ranks)
        line = _pipeline(p, f"p{at}", ranks, count, unit, first if copies else 0)
        whose = {"replicates": 0} if copies else {"model": f"m{at}"}
        made.append(msgspec.structs.replace(line, **whose) if at else line)
        first += p["microbatches"]
    spec = Spec(
        name=row["id"].replace("-", "_").replace(".", "_"),
        ranks=ranks,
        microbatches=first,
        pipelines=tuple(made),
        time_unit=1,
        size_unit=unit,
        spans=(Span("target", 1, 1, 1, 1),),
        split_backward="B" not in pipelines[0] and not pipelines[0].get("forward_only", False),
        overlap=("B",) if row.get("pair") else (),
        pairs=_pairs(made, ranks, row["pair"]) if row.get("pair") else (),
        transfers=_transfers(made, row["transfer"]),
        limits=()
        if limit is None
        else tuple(Limit(int(Fraction(str(x)) * unit), 0) for x in limits),
        minimize=row["objective"],
    )
    return _fixed(spec, row["fixed"]) if row.get("fixed") else spec


def small(row: dict[str, Any]) -> Spec:
    """The Spec of one row of `proven_optima_small.json`."""
    place = {"loop2": "interleaved"}.get(row["placement"], row["placement"])
    pipeline: dict[str, Any] = {"microbatches": row["M"], "place": place, "F": row["tF"]}
    if row["split"]:
        pipeline |= {"I": row["tB"], "W": row["tW"]}
    else:
        pipeline |= {"B": row["tB"] + row["tW"]}
    if place == "interleaved":
        pipeline["stages"] = 2 * row["P"]
    return target(
        {
            "id": f"{place}-p{row['P']}m{row['M']}",
            "ranks": row["P"],
            "transfer": row["comm"],
            "objective": row["metric"],
            "limit": row["cap"],
            "pipelines": [pipeline],
        }
    )


def _pipeline(
    p: dict[str, Any], name: str, ranks: int, count: int, unit: int, first: int
) -> Pipeline:
    place = PLACES[p["place"]]
    activation = Fraction(str(p.get("activation", 1)))
    kept = Fraction(str(p.get("after_I", activation)))

    def of(kind: str, stage: int) -> int:
        value = p.get(kind, 0)
        return int(value[stage] if isinstance(value, list) else value)

    stages = tuple(
        Stage(
            rank=place(s, ranks),
            F=of("F", s),
            B=of("B", s) if "B" in p else of("I", s) + of("W", s),
            I=of("I", s),
            W=of("W", s),
            activation=int(activation * unit),
            kept=int(kept * unit),
        )
        for s in range(count)
    )
    return Pipeline(
        name=name,
        stages=stages,
        microbatches=p["microbatches"],
        first=first,
        at=0,
        forward_only=p.get("forward_only", False),
    )


MODELS = {"1.5B": (2304, 24), "6.2B": (4096, 32), "14.6B": (5120, 40), "28.3B": (6144, 48)}


def memory_case(row: dict[str, str]) -> Spec:
    """The Spec of one row of `zero_bubble_memory_sweep.csv`. The paper's memory: a forward takes
    34h + 5a · 1024 (hidden size h, a heads), the input gradient frees all but 32h."""
    h, heads = MODELS[row["model"]]
    ranks, size = int(row["ranks"]), 34 * h + 5 * heads * 1024
    line = {"microbatches": int(row["microbatches"]), "place": "linear"}
    costs = {k: int(row[k]) for k in "FIW"}
    return target(
        {
            "id": row["model"],
            "ranks": ranks,
            "transfer": int(row["transfer"]),
            "objective": "span",
            "limit": int(Fraction(row["limit_in_ranks"]) * ranks * size),
            "pipelines": [line | costs | {"activation": size, "after_I": 32 * h}],
        }
    )


def bubble(spec: Spec, ticks: int) -> float:
    """The share of `ticks` that a rank with one stage idles, to four digits as the table has it."""
    line = spec.pipelines[0]
    stage = line.stages[0]
    return round(1 - line.microbatches * (stage.F + stage.I + stage.W) / ticks, 4)


def _pairs(pipelines: Sequence[Pipeline], ranks: int, ticks: int) -> tuple[Pair, ...]:
    here: list[list[tuple[int, int]]] = [[] for _ in range(ranks)]
    for p, pipeline in enumerate(pipelines):
        for s, stage in enumerate(pipeline.stages):
            here[stage.rank].append((p, s))
    return tuple(
        Pair(rank, forward, "B", backward, ticks)
        for rank in range(ranks)
        for forward in here[rank]
        for backward in here[rank]
    )


def _transfers(pipelines: Iterable[Pipeline], ticks: int) -> tuple[Transfer, ...]:
    talking = set()
    for pipeline in pipelines:
        ranks = [stage.rank for stage in pipeline.stages]
        for a, b in pairwise(ranks):
            if a != b:
                talking |= {(a, b), (b, a)}
    return tuple(Transfer(a, b, ticks) for a, b in sorted(talking)) if ticks else ()


def _fixed(spec: Spec, fixed: dict[str, Any]) -> Spec:
    """The Spec with the orders that the row fixes, as the author would have written them."""
    words = fixed.get("words") or [fixed["ranks"].get(str(r), "") for r in range(spec.ranks)]
    flat = [(p, s) for p, line in enumerate(spec.pipelines) for s in range(len(line.stages))]
    written = []
    for word in words:
        seen: dict[str, int] = {}
        units = []
        for letter in _letters(word):
            p, s = flat[int(letter[1:])]
            m = seen.get(letter, 0)
            seen[letter] = m + 1
            units.append(Unit((Operation(letter[0], p, s, m),), 0))
        written.append(tuple(units))
    marks = tuple(digest(u.operations for u in units) if units else "" for units in written)
    return msgspec.structs.replace(spec, written=tuple(written), order=marks)


def _letters(word: str) -> list[str]:
    """`F0 F0*3 I0` as its letters, repetitions spelled out."""
    found = []
    for letter in word.split():
        name, _, times = letter.partition("*")
        found += [name] * int(times or 1)
    return found
