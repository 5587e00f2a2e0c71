"""Fills the generated parts of `docs/streams.md`: what a published layer comes to as a pair and in
whole schedules, by the plans themselves."""

import re
from collections.abc import Mapping

from generate_schedules import compiled, line

from stretto.compiler.driver import compile_file
from stretto.compiler.show.pairs import pairs
from stretto.compiler.show.summary import Summary, of_plan, percent

PART = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)

FOUR_LAYERS = {"ranks": 2, "microbatches": 4, "layers": 4}
MEASURED = 129.0  # ms, first start to last end of the published trace of such a pair
SIZES: tuple[tuple[str, Mapping[str, int]], ...] = (
    ("deepseek_v3", {"ranks": 8, "microbatches": 20}),
    ("deepseek_v3", {"ranks": 8, "microbatches": 80}),
    ("deepseek_v3", {"ranks": 8, "microbatches": 20, "layers": 4}),
    ("deepseek_v3_v", {"ranks": 4, "microbatches": 20}),
    ("moe_1f1b", {"ranks": 8, "microbatches": 32}),
    ("moe_1f1b", {"ranks": 4, "microbatches": 16, "chunks": 2}),
)


def streams(text: str) -> str:
    """The page with its generated parts made anew."""
    parts = {"pair": pair(), "table": "".join(table())}
    return PART.sub(lambda part: part[1] + parts[part[2]] + part[3], text)


def pair() -> str:
    """What is said of a pair of four layers, in ms: the file's costs are tenths of one."""
    plan = compiled("deepseek_v3", FOUR_LAYERS)
    found = pairs(plan.programs["train"].spec)[0]
    span, compute, comm = (f"{float(x) / 10:.1f}" for x in (found["span"], *found["load"]))
    return (
        f"\nPredicted for the pair of four layers: **{span} ms**, which is all the work that its "
        f"`compute` has ({compute} ms; `comm` has {comm} ms). Measured by DeepSeek: {MEASURED} ms, "
        f"{percent(MEASURED / float(span) - 1)} more.\n\n"
    )


def table() -> list[str]:
    """A row for each size: with parts, and the same order with its stages whole."""
    head = ("schedule", "ranks × micro-batches", "with parts", "whole", "shorter by")
    columns = (*head, "hidden", "in the steady state", "in the ramps")
    rows = [line(columns), line(["---"] * len(columns))]
    for name, size in SIZES:
        cut = of_plan(compiled(name, size))
        whole = of_plan(compile_file(name, parameters=size, whole=True))
        rows.append(line(row(name, size, cut, whole)))
    return ["\n", *rows, "\n"]


def row(name: str, size: Mapping[str, int], cut: Summary, whole: Summary) -> list[str]:
    """One size. The shares are those of the ranks together."""
    more = [f"{key} {value}" for key, value in size.items() if key not in ("ranks", "microbatches")]
    shares = [one for one in cut.hidden if one]
    mean = [
        sum(value for one in shares if (value := getattr(one, key)) is not None) / len(shares)
        for key in ("share", "steady", "ramps")
    ]
    return [
        f"`{name}`",
        ", ".join([f"{size['ranks']} × {size['microbatches']}", *more]),
        str(cut.makespan),
        str(whole.makespan),
        percent(1 - float(cut.makespan) / float(whole.makespan)),
        *map(percent, mean),
    ]
