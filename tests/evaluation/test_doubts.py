"""What is right by the language and seldom meant is told, and nothing else is."""

import pytest

from stretto.compiler import library
from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.evaluation import Settings, evaluate
from stretto.compiler.evaluation.settings import SeldomMeant
from stretto.compiler.language.parse import parse, parse_costs

HEAD = "schedule example\nranks 4\nmicrobatches 8\npipeline main { }\n"
SPLIT = "split B into I, W\n"
WHOLE = "order rank r { repeat 8 { F }; repeat 8 { B } }\n"
PARTS = "split F into mlp, a2a on comm\n"


def doubts(text: str, costs: str = "") -> list[SeldomMeant]:
    """What is told of a file with these statements and these of a file of costs."""
    found: list[SeldomMeant] = []
    file = parse_costs(Source("costs.pipe", costs)) if costs else None
    evaluate(parse(Source("example.pipe", text)), Settings(costs=file, doubt=found.append))
    return found


@pytest.mark.parametrize(
    ("text", "costs", "line", "told"),
    [
        (SPLIT, "cost F = 17.3\ncost B = 35.1\n", 2, "`I` and `W`, which take 1:"),
        (SPLIT, "cost F = 2\ncost I = 3\n", 2, "`W`, which takes 1: `cost W = ...`"),
        (SPLIT, "cost W = 2\ncost I = 3\n", 2, "`F`, which takes 1:"),
        ("", "cost F = 2\n", 1, "`B`, which takes 2, 1 for each half:"),
        ("", "cost F = 2\ncost I = 3\n", 2, "`W`, which takes 1:"),
        ("", "cost B[0] = 3\ncost F = 2\ncost B[1] = 4\n", 3, "`B[2]` and `B[3]`, which take 2"),
        ("", "cost B = 3\ncost F[0] = 2\n", 2, "`F[1]`, `F[2]` and `F[3]`, which take 1:"),
        ("", "cost B = 3\ncost F = 3 - 2\ncost F[1, 2] = 2\n", 0, ""),
        ("", "cost B = 3\ncost F[s, m] = 2 for s in 0 .. 4, m in 0 .. 8\n", 0, ""),
        (
            "",
            "cost B = 3\ncost F[s, m] = 2 for s in 0 .. 4, m in 1 .. 8\n",
            2,
            "`F`, which takes 1",
        ),
        ("", "cost F = 2\ncost I = 3\ncost W = 1\n", 0, ""),
        (SPLIT, "cost F = 2\ncost I = 3\ncost W = 1\n", 0, ""),
        (SPLIT + WHOLE, "cost F = 2\ncost B = 3\n", 0, ""),
        (SPLIT, "transfer 1/3\nactivation = 2\n", 0, ""),
        (PARTS + SPLIT, "cost F.mlp = 2\n", 1, "`F.a2a`, which takes 1:"),
        (PARTS + SPLIT, "cost F.mlp = 2\ncost F.a2a = 3\n", 0, ""),
        (PARTS, "cost F.mlp = 2\ncost B.a2a = 3\ncost F.a2a[0] = 3\n", 3, "`F.a2a[1]`, `F.a2a[2]`"),
    ],
)
def test_costs_that_nothing_is_said_of_are_named(
    text: str, costs: str, line: int, told: str
) -> None:
    found = doubts(HEAD + text, costs)
    assert [(one.at.file, one.at.line) for one in found] == ([("costs.pipe", line)] if line else [])
    assert told in (found[0].words if found else "")


def test_a_forward_only_pipeline_needs_no_costs_of_backwards() -> None:
    text = HEAD.replace("{ }", "{ forward only }")
    assert not doubts(text, "cost F = 2\n")


UNITS = [
    ("limit activations <= 40 GiB\n", "", 5, "the activation is not said: it counts as 1 byte"),
    ("activation = 10\nlimit activations <= 40 GiB\n", "", 5, "the activation has none: it counts"),
    ("param room = 40 GiB\nlimit activations <= room / 2\n", "", 6, "holds nothing back; write"),
    ("", "activation[0] = 2 GiB\n", 1, "stage 1 of `main` (and of 2 more) is not said"),
    ("activation = 2 GiB\nlimit activations <= 40 GiB\n", "", 0, ""),
    ("activation = 2 * 1024 * 1024 * 1024\nlimit activations <= 40 GiB\n", "", 0, ""),
    ("activation = 2 GiB\nlimit activations <= 40 * 1024 * 1024 * 1024\n", "", 0, ""),
    ("activation = 2\nlimit activations <= 40\n", "", 0, ""),
    ("activation = 0\nlimit activations <= 1 GiB\n", "", 0, ""),
    (PARTS + "activation F.mlp = 1 GiB\nlimit activations <= 9 GiB\n", "", 0, ""),
]


@pytest.mark.parametrize(("text", "costs", "line", "told"), UNITS)
def test_sizes_without_a_unit_beside_others_are_named(
    text: str, costs: str, line: int, told: str
) -> None:
    found = doubts(HEAD + text, costs)
    assert [one.at.line for one in found] == ([line] if line else [])
    assert told in (found[0].words if found else "")


@pytest.mark.parametrize(
    ("text", "costs", "place", "told"),
    [
        (
            "",
            "activation[1] = 2\n",
            "costs.pipe:1",
            "`main[0]`, `main[2]` and `main[3]`, which leave",
        ),
        (
            "activation[0] = 2\nactivation[3] = 2.5\n",
            "",
            "example.pipe:6",
            "`main[1]` and `main[2]`",
        ),
        (
            "activation main[s] = s for s in 1 .. 4\n",
            "",
            "example.pipe:5",
            "`main[0]`, which leaves 1",
        ),
        ("activation = 2\nactivation[0] = 3\n", "", "", ""),
        ("activation after I = 1/2\n", "", "", ""),
    ],
)
def test_activations_that_nothing_is_said_of_are_named(
    text: str, costs: str, place: str, told: str
) -> None:
    found = doubts(HEAD + text, costs)
    assert [f"{one.at.file}:{one.at.line}" for one in found] == ([place] if place else [])
    assert told in (found[0].words if found else "")


def test_a_limit_in_stages_beside_activations_with_a_unit_is_refused_by_name() -> None:
    with pytest.raises(Rejected, match="the limit has no unit and counts bytes, 10 here") as caught:
        doubts(library.read("v_half").text, "activation = 1.2 GiB\n")
    places = [(x.span.file, x.span.line) for x in caught.value.diagnostics[0].labels]
    assert places == [("example.pipe", 17), ("costs.pipe", 1)]
    with pytest.raises(Rejected, match=r"in GiB: one forward of stage 0 leaves 2\.4 GiB"):
        doubts(HEAD + "activation = 2.4 GiB\nlimit activations <= 40 for rank r\n")


def test_a_limit_that_was_set_to_a_number_without_its_unit_is_refused_by_name() -> None:
    text = HEAD + "param room = 40 GiB\nactivation = 2 GiB\nlimit activations <= room\n"
    evaluate(parse(Source("example.pipe", text)), Settings({"room": 40 * 2**30}))
    with pytest.raises(Rejected, match="the limit has no unit and counts bytes, 40 here"):
        evaluate(parse(Source("example.pipe", text)), Settings({"room": 40}))


def test_the_library_raises_no_doubts() -> None:
    assert not [name for name in library.names() if doubts(library.read(name).text)]
