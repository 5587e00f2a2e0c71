"""Order blocks against a second interpreter (`orders_oracle`), on random blocks: the same sequence
on every rank, and refused where that one refuses."""

import os
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.evaluation import evaluate
from stretto.compiler.language import syntax as s
from stretto.compiler.language.parse import parse
from tests.support import orders_oracle as oracle
from tests.support import printed

N = printed.NOWHERE


def word(text: str) -> s.Word:
    return s.Word(text, N)


def number(n: int) -> s.Number:
    return s.Number(n, N)


@st.composite
def worlds(draw: Any) -> tuple[int, list[oracle.Pipe], int]:
    """Ranks, pipelines and slices."""
    ranks = draw(st.integers(1, 3))
    microbatches = draw(st.integers(1, 4))
    pipes = [
        oracle.Pipe(
            name,
            draw(st.lists(st.integers(0, ranks - 1), min_size=1, max_size=3)),
            microbatches,
            name == "b" and draw(st.integers(0, 4)) == 0,
        )
        for name in ["a", "b"][: draw(st.integers(1, 2))]
    ]
    return ranks, pipes, draw(st.sampled_from([0, 0, 2]))


@st.composite
def blocks(draw: Any, world: Any, names: tuple[str, ...], queues: tuple[str, ...], depth: int):  # type: ignore[no-untyped-def]
    """A block; `names` are numbers that are known in it, a queue is listed where it has one name
    that begins with `!`."""
    _, pipes, slices = world
    steps: list[s.Step] = []
    listing = "!" in queues

    def small() -> s.Expression:
        first = draw(st.sampled_from([number(0), number(1), *(s.Name(n, N) for n in names)]))
        if draw(st.integers(0, 3)):
            return first
        sign = draw(st.sampled_from("+-*"))
        return s.Chain(first, ((sign, number(draw(st.integers(0, 2)))),), N)

    def condition() -> s.Expression:
        return s.Comparison(small(), draw(st.sampled_from(["==", "<", ">"])), small(), N)

    def mention(kinds: str = "FFFBBIW", optional: bool = True) -> s.Mention:
        pipe = draw(st.sampled_from([None, *(p.name for p in pipes), "near"]))
        stage = small() if draw(st.booleans()) else None
        named = stage is not None and draw(st.integers(0, 2)) == 0
        return s.Mention(
            draw(st.sampled_from(kinds)),
            optional and draw(st.integers(0, 2)) == 0,
            None,
            word(pipe) if pipe else None,
            stage,
            small() if named else None,
            number(draw(st.integers(0, 1))) if slices and draw(st.integers(0, 3)) == 0 else None,
            None,
            N,
        )

    def ranges() -> tuple[s.Range, ...]:
        return (s.Range(word(fresh), number(draw(st.integers(0, 1))), small(), N),)

    for i in range(draw(st.integers(0, 3))):
        fresh = f"n{depth}{i}"
        kind = draw(st.integers(0, 9 if depth else 5))
        takes = [q for q in queues if q != "!"]
        if kind == 3 and not listing and takes:
            steps.append(s.Next(word(draw(st.sampled_from(takes))), draw(st.booleans()), N))
        elif kind == 4:
            pair = mention("F", False), mention("BBI", False)
            steps.append(s.Pair(*pair, N))
        elif kind == 5:
            name = f"q{depth}{i}"
            steps.append(s.Queue(word(name), mention(), ranges(), N))
            queues = (*queues, name)
        elif kind == 6:
            count, name = small(), draw(st.sampled_from([None, fresh]))
            body = draw(blocks(world, (*names, *([name] if name else [])), queues, depth - 1))
            steps.append(s.Repeat(count, word(name) if name else None, body, N))
        elif kind == 7:
            some = ranges()
            steps.append(s.Loop(some, draw(blocks(world, (*names, fresh), queues, depth - 1)), N))
        elif kind == 8:
            inner = [draw(blocks(world, names, queues, depth - 1)) for _ in range(2)]
            steps.append(s.If(((condition(), inner[0]),), inner[1], N))
        elif kind == 9:
            name = f"q{depth}{i}"
            steps.append(
                s.QueueBlock(word(name), draw(blocks(world, names, (*queues, "!"), depth - 1)), N)
            )
            queues = (*queues, name)
        else:
            steps.append(mention())
    return s.Block(tuple(steps), N)


def rest(world: Any) -> str:
    """Whatever a block has not taken, stage by stage: with it a block that begins well is whole."""
    lines = []
    for kind in "FBW":
        for p in world[1]:
            for stage, rank in enumerate(p.ranks):
                if kind == "F" or not p.forward_only:
                    take = f"{kind}? {p.name}[{stage}]"
                    lines.append(f"if r == {rank} {{ repeat 9 {{ {take} }} }}")
    return "\n".join(lines)


CASES = worlds().flatmap(lambda w: st.tuples(st.just(w), blocks(w, ("r",), (), 2)))


@given(CASES)
@settings(max_examples=int(os.environ.get("FUZZ", "400")), deadline=None)
def test_orders_are_what_the_language_says(case: Any) -> None:
    (ranks, pipes, slices), block = case
    near = "let near = if r == 0 then a else " + pipes[-1].name
    text = "\n".join(
        [
            f"schedule random ranks {ranks} microbatches {pipes[0].microbatches}",
            *(
                f"pipeline {p.name} {{ stages {len(p.ranks)} place s -> {p.ranks}[s]"
                f"{' forward only' if p.forward_only else ''} }}"
                for p in pipes
            ),
            f"split microbatch into {slices} slices" if slices else "",
            "split B into I, W overlap F | B overlap F | I",
            f"order rank r {{ {near}",
            printed.block(block)[1:-1],
            rest(case[0]),
            "}",
        ]
    )
    schedule = parse(Source("random.pipe", text))
    body = schedule.statements[-1]
    assert isinstance(body, s.OrderRank)
    expected = [oracle.order(body.body, rank, "r", pipes, slices, {}) for rank in range(ranks)]
    if None in expected:
        event("wrong")
        with pytest.raises(Rejected):
            evaluate(schedule)
        return
    event("right")
    spec = evaluate(schedule)
    found = [
        [
            [
                f"{o.kind} {spec.pipelines[o.pipeline].name} {o.stage} {o.microbatch} "
                f"{max(0, o.slice)}"
                for o in unit.operations
            ]
            for unit in units
        ]
        for units in spec.written
    ]
    assert found == expected, text
    assert all(spec.order)
