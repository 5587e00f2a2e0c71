"""A table as a schedule file: the text says what the table said, and is short."""

from random import Random

import pytest

from stretto.compiler import library as shipped
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.imports import repeats
from stretto.compiler.imports.readable import readable
from stretto.compiler.imports.recognise import recognised
from stretto.compiler.imports.repeats import FoldedStep, RepeatedSteps, folded
from stretto.compiler.problem.spec import Spec
from tests.support import library, specs


def again(spec: Spec) -> tuple[Spec, str]:
    """What the text of the Spec says."""
    text = readable(spec)
    return library.evaluated(Source("again.pipe", text)), text


def same(spec: Spec, other: Spec) -> None:
    assert [[u.operations for u in row] for row in spec.written] == [
        [u.operations for u in row] for row in other.written
    ]
    assert [[s.rank for s in p.stages] for p in spec.pipelines] == [
        [s.rank for s in p.stages] for p in other.pipelines
    ]


WRITTEN = [
    name for name in shipped.names() if "\norder rank" in shipped.read(name).text
    and "forward only" not in shipped.read(name).text
    and name not in {"two_models", *library.IN_PARTS}
]  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_a_schedule_of_the_library_survives_and_is_recognised(name: str) -> None:
    spec = library.spec(name, ranks=4, microbatches=12)
    other, text = again(spec)
    same(spec, other)
    known = recognised(other)
    assert known is not None and known.split()[:3] == [name, "--set", "ranks=4"]
    assert len(text.splitlines()) < 60


@pytest.mark.parametrize("seed", range(20))
def test_any_order_survives(seed: int) -> None:
    """Micro-batches in any sequence, several stages on a rank, both ways, weight gradients late."""
    random = Random(seed)
    shape = random.choice(
        [specs.linear(3, 5, split=True), specs.interleaved(2, 3, 4), specs.both_ways(2, 4)]
    )
    spec = specs.random_order(shape, random)
    same(spec, again(spec)[0])
    assert recognised(spec) is None


def unfolded(steps: tuple[FoldedStep, ...]) -> list[str]:
    found: list[str] = []
    for step in steps:
        found += unfolded(step.block) * step.times if isinstance(step, RepeatedSteps) else [step]
    return found


def test_what_is_folded_unfolds_to_the_same() -> None:
    random = Random(3)
    for _ in range(200):
        letters = [random.choice("ab") for _ in range(random.randrange(30))]
        words = letters * random.randrange(1, 4) + [random.choice("abc") for _ in range(9)]
        assert unfolded(folded(words)) == words
    assert folded(list("FFFBWBWBW")) == (RepeatedSteps(3, ("F",)), RepeatedSteps(3, ("B", "W")))


def test_more_different_steps_than_letters_are_folded_in_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(repeats, "MOST", 7)
    words = [*"abcdefg", *map(str, range(30)), *"xyxyxyxyxy"]
    assert unfolded(folded(words)) == words and len(folded(words)) < len(words)


def test_ten_thousand_operations_become_a_few_lines() -> None:
    spec = library.spec("interleaved_1f1b", ranks=4, microbatches=640)
    text = readable(spec)
    assert sum(map(len, spec.written)) > 10_000 and len(text.splitlines()) < 40
