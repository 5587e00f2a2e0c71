"""Nests of loops: what they make is counted before they begin where it is known, and never more
than they make."""

from collections.abc import Callable
from random import Random

import pytest

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Rejected
from stretto.compiler.driver import compile_text
from stretto.compiler.evaluation import Settings
from stretto.compiler.order.budget import Budget

HEAD = "schedule nests ranks 1 microbatches 1\npipeline main { stages 1 place s -> 0 }\n"
OPERATIONS = 2

Values = dict[str, int]


def refused(text: str, most: int) -> list[Diagnostic]:
    try:
        compile_text(HEAD + text, "nests.pipe", Settings(max_ops=most), Budget(effort=0))
    except Rejected as error:
        return list(error.diagnostics)
    return []


@pytest.mark.parametrize(
    "order",
    [
        "repeat 2000 { repeat 2001 { F? } }",
        "repeat 2000 as k { if k >= 0 { }; let a = 2; repeat 2001 { F? } }",
        "for i in 0 .. 2000, j in 0 .. 2001 { F? }",
        "for i in 0 .. 2000 { for j in 1 .. 2002 { } }",
        "repeat 2000 { repeat 1 { } for j in 0 .. 40, k in 0 .. 50 { } }",
        "queue q = F[r, j] for i in 0 .. 2000, j in 0 .. 2001",
    ],
)
def test_a_nest_is_refused_before_it_begins(order: str) -> None:
    """As only its count shows: a loop that was begun has made more rounds than that."""
    [found] = refused(f"order rank r {{ {order} }}", 4_000_000)
    assert found.message == "the loops of this file make more than 4,000,000 rounds"
    assert int(found.notes[0].split()[0].replace(",", "")) > 4_000_000


def test_a_nest_of_rules_too() -> None:
    [found] = refused("rule F[0, i] after F[0, j] for i in 0 .. 3000, j in 0 .. 3000", 4_000_000)
    assert found.notes[0] == "9,003,000 would begin here"


def nest(random: Random, names: list[str], depth: int) -> tuple[str, Callable[[Values], int]]:
    """A block's text, and how many rounds its loops make where names have values."""
    steps = [loop(random, names, depth) for _ in range(random.randrange(1, 3))] if depth else []
    text = "; ".join(words for words, _ in steps)
    return text, lambda values: sum(rounds(values) for _, rounds in steps)


def loop(random: Random, names: list[str], depth: int) -> tuple[str, Callable[[Values], int]]:
    """A loop, now and then in an `if`; how often it runs may depend on the loops around it."""
    name, many = f"i{len(names)}", random.randrange(4)
    other = random.choice([*names, ""])
    count = f"{many} + {other}" if other else f"{many}"
    body, inside = nest(random, [*names, name], depth - 1)
    form = random.choice([f"repeat {count} as {name}", f"for {name} in 0 .. {count}"])
    asked = random.choice([*names, ""])
    text = f"{form} {{ {body} }}"

    def rounds(values: Values) -> int:
        if asked and values[asked] % 2:
            return 0
        times = many + values.get(other, 0)
        return times + sum(inside({**values, name: k}) for k in range(times))

    return f"if {asked} % 2 == 0 {{ {text} }}" if asked else text, rounds


@pytest.mark.parametrize("seed", range(60))
def test_no_more_rounds_are_foreseen_than_are_made(seed: int) -> None:
    """So many may be made as there are: one less is too few."""
    random = Random(seed)
    block, rounds = nest(random, [], 4)
    most = max(OPERATIONS, rounds({}))
    text = f"order rank r {{ {block}; F; B }}"
    assert refused(text, most) == []
    if most > OPERATIONS:
        [found] = refused(text, most - 1)
        assert found.message == f"the loops of this file make more than {most - 1:,} rounds"
