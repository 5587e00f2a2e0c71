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
from tests.support.random_blocks import World, blocks, worlds


def rest(world: World) -> str:
    """Whatever a block has not taken, stage by stage: with it a block that begins well is whole."""
    lines = []
    for kind in "FBW":
        for p in world.pipes:
            for stage, rank in enumerate(p.ranks):
                if kind == "F" or not p.forward_only:
                    take = f"{kind}? {p.name}[{stage}]"
                    lines.append(f"if r == {rank} {{ repeat 9 {{ {take} }} }}")
    return "\n".join(lines)


CASES = worlds().flatmap(lambda w: st.tuples(st.just(w), blocks(w, ("r",), (), 2)))


@given(CASES)
@settings(max_examples=int(os.environ.get("FUZZ", "400")), deadline=None)
def test_orders_are_what_the_language_says(case: Any) -> None:
    (ranks, pipes, slices, _), block = case
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
