"""Fills the generated parts of `docs/schedules.md`, and draws a picture of every schedule that
ships: all of it from the files themselves, their comments and what their plans amount to.
"""

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction

from stretto.compiler import library
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.driver import compile_text
from stretto.compiler.evaluation import Settings, evaluate
from stretto.compiler.language.parse import parse, parse_costs
from stretto.compiler.plan.plan import Plan
from stretto.compiler.problem.figures import figure
from stretto.compiler.program.program import ProgramName
from stretto.compiler.show.summary import Summary, largest, percent, summarize
from stretto.compiler.show.svg import draw
from stretto.compiler.show.view import view

Size = Mapping[str, int]

PICTURE: Size = {"ranks": 4, "microbatches": 8}
TABLE: Size = {"ranks": 8, "microbatches": 32}
PART = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def schedules(text: str) -> str:
    """The page with its generated parts made anew."""
    names = library.names()
    columns = "schedule", "makespan", "bubble", "activations at most", "copies of the weights"
    rule = ["---"] * len(columns)
    parts = {
        "table": "".join(map(line, [columns, rule, *map(row, names)])),
        "gallery": "".join(map(entry, names)),
    }
    return PART.sub(lambda part: part[1] + parts[part[2]] + part[3], text)


def pictures() -> dict[str, str]:
    """An SVG for every schedule with an order, by its path below `docs/`."""
    plans = {name: compiled(name, PICTURE) for name in library.names() if ordered(name)}
    return {f"pictures/{name}.svg": draw(view(plan, main(plan))) for name, plan in plans.items()}


def ordered(name: str) -> bool:
    """Whether the file says its order. What an engine finds may depend on the time it is given,
    and a page must come out the same everywhere."""
    return bool(evaluate(parse(library.read(name)), Settings()).written)


def compiled(name: str, size: Size, costs: str = "") -> Plan:
    """The plan of a schedule that ships, at this size."""
    source = library.read(name)
    values = {key: Fraction(value) for key, value in size.items()}
    return compile_text(
        source.text,
        source.name,
        Settings(values=values, costs=parse_costs(Source("costs.pipe", costs))),
    )


def main(plan: Plan) -> ProgramName:
    """The program that a picture shows."""
    return "train" if "train" in plan.programs else "eval"


def row(name: str) -> tuple[str, ...]:
    """The cells of a schedule in the table."""
    link = f"[{name}](#{name})"
    if not ordered(name):
        return link, "found by the compiler", "", "", "1"
    share = Fraction(TABLE["ranks"], stages(name))
    cut = in_parts(name)  # then with costs of their own, which cannot be compared
    costs = "" if cut else " ".join(f"cost {kind} = {share}" for kind in "FIW")
    s = summary(compiled(name, TABLE, f"{costs} activation = {share}"))
    return (
        link,
        "costs of its own" if cut else figure(s.makespan),
        percent(s.bubble),
        str(largest(s)),
        str(s.weight_copies),
    )


def stages(name: str) -> int:
    """How many stages the model is cut into."""
    values = {key: Fraction(value) for key, value in TABLE.items()}
    spec = evaluate(parse(library.read(name)), Settings(values=values))
    return len(spec.pipelines[0].stages)


def in_parts(name: str) -> bool:
    """Whether the schedule's stages are cut into parts."""
    return bool(evaluate(parse(library.read(name)), Settings()).parts)


def summary(plan: Plan) -> Summary:
    """The figures of a plan."""
    name = main(plan)
    return summarize(plan.programs[name], plan.claims[name], plan.bound, plan.engine, plan.hash)


def line(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |\n"


def entry(name: str) -> str:
    """A schedule's section: what its comment says, its picture, its text."""
    comment, file = library.read(name).text.split("\nschedule ", 1)
    paragraphs = paragraphs_of(comment)
    if ordered(name):
        paragraphs.insert(1, f"![{name}: who does what when](pictures/{name}.svg)")
    body = "\n\n".join(paragraphs)
    return f"\n## {name}\n\n{body}\n\n```pipe\nschedule {file}```\n"


def paragraphs_of(comment: str) -> list[str]:
    """The comment as paragraphs; the one about its use is one of its own."""
    words = "\n".join(line.removeprefix("#").strip() for line in comment.splitlines())
    blocks = re.split(r"\n\n|\n(?=Use it)", words)
    return [" ".join(block.split()) for block in blocks]
