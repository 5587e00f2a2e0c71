"""What a text is evaluated to, or the messages with which it is refused."""

from fractions import Fraction

import pytest

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.evaluation import Settings, evaluate
from stretto.compiler.language.parse import parse, parse_costs
from stretto.compiler.problem.spec import Spec

HEAD = "schedule example ranks 4 microbatches 8\n"
MAIN = HEAD + "pipeline main { }\n"


def spec(text: str, costs: str = "", **values: int | Fraction) -> Spec:
    """What `text` with these `costs` and `values` is evaluated to. Raises Rejected."""
    read = parse_costs(Source("costs.pipe", costs)) if costs else None
    return evaluate(parse(Source("example.pipe", text)), Settings(values=values, costs=read))


def refused(text: str, costs: str = "", **values: int | Fraction) -> list[str]:
    """The messages with which it is refused, as it must be."""
    with pytest.raises(Rejected) as caught:
        spec(text, costs, **values)
    return [d.message for d in caught.value.diagnostics]


def value(expression: str) -> Fraction:
    """What an expression is worth in a schedule of 4 ranks and 8 micro-batches."""
    return Fraction(spec(MAIN + f"param x = {expression}\n").parameters["x"])
