"""Order blocks of stages that are cut into parts against a second interpreter (`parts_oracle`), on
random blocks: the same list on every rank, and refused where that one refuses."""

import os
from copy import copy
from random import Random
from typing import Any

import pytest
from hypothesis import event, given, reject, settings
from hypothesis import strategies as st

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.evaluation import evaluate
from stretto.compiler.language import syntax as s
from stretto.compiler.language.parse import parse
from stretto.compiler.problem.spec import Spec
from tests.support import orders_oracle as oracle
from tests.support import printed
from tests.support.interleavings import TooMany
from tests.support.parts_oracle import Cut, PartRank, PartWalk, part_order
from tests.support.random_blocks import N, World, blocks, number, word

COMPUTE, COMM = "compute", "comm"

CHAINS = {
    "a, c on comm": lambda s: [("a", -1, COMPUTE), ("c", -1, COMM)],
    "a if s > 0, 2 * (b, c on comm if s == 0)": lambda s: [
        *([("a", -1, COMPUTE)] if s > 0 else []),
        *(
            part
            for layer in range(2)
            for part in [("b", layer, COMPUTE), *([("c", layer, COMM)] if s == 0 else [])]
        ),
    ],
    "[1, 2, 0][s] * (b), c on comm, a if s == 1": lambda s: [
        *(("b", layer, COMPUTE) for layer in range([1, 2, 0][s])),
        ("c", -1, COMM),
        *([("a", -1, COMPUTE)] if s == 1 else []),
    ],
    "c on comm if s != 1, a on net, b if s == 1": lambda s: [
        *([("c", -1, COMM)] if s != 1 else []),
        ("a", -1, "net"),
        *([("b", -1, COMPUTE)] if s == 1 else []),
    ],
}
"""How stages are cut: as the language says it, and what it means for stage s."""


@st.composite
def worlds(draw: Any) -> tuple[World, list[str]]:
    """Ranks, pipelines and parts; and the statements that say of parts what they are and cost."""
    ranks = draw(st.sampled_from([1, 1, 2]))
    microbatches = draw(st.integers(1, 3))
    pipes = [
        oracle.Pipe(
            name,
            draw(st.lists(st.integers(0, ranks - 1), min_size=1, max_size=2 if name == "p" else 1)),
            microbatches,
            name == "b" and draw(st.integers(0, 4)) == 0,
        )
        for name in ["p", "q"][: draw(st.integers(1, 2))]
    ]
    text = draw(st.sampled_from(sorted(CHAINS)))
    cut = Cut([CHAINS[text](stage) for stage in range(3)], draw(st.integers(0, 3)) > 0, {})
    lines = [f"split F[s] into {text}", "split B into I, W" if cut.split else ""]
    for p in pipes:
        for stage in range(len(p.ranks)):
            for kind in "F" if p.forward_only else "FB":
                for letter, name, layer, _ in cut.parts(kind, stage):
                    usual = draw(st.integers(0, 4))
                    where = f"layer {layer}" if layer >= 0 else ""
                    index = ", ".join(filter(None, [str(stage), where]))
                    lines.append(f"cost {letter}.{name} {p.name}[{index}] = {usual} / 2")
                    for m in range(microbatches):
                        ticks = usual
                        if draw(st.integers(0, 9)) == 0:
                            ticks = draw(st.integers(0, 4))
                            index = ", ".join(filter(None, [str(stage), str(m), where]))
                            lines.append(f"cost {letter}.{name} {p.name}[{index}] = {ticks} / 2")
                        cut.costs[letter, p.name, stage, m, name, layer] = ticks
    return World(ranks, pipes, 0, cut), lines


def rest(world: World) -> str:
    """Whatever a block has not taken, stage by stage: with it a block that begins well is whole."""
    assert world.cut is not None
    lines = []
    for kind in "FIW" if world.cut.split else "FB":
        for p in world.pipes:
            for stage, rank in enumerate(p.ranks):
                if kind != "F" and p.forward_only:
                    continue
                for name, stream in world.cut.names.items():
                    if kind != "W" or stream == COMPUTE:
                        take = f"{kind}?.{name} {p.name}[{stage}]"
                        lines.append(f"if r == {rank} {{ repeat 6 {{ {take} }} }}")
    return "\n".join(lines)


def text_of(world: World, lines: list[str], block: s.Block) -> str:
    """The file."""
    return "\n".join(
        [
            f"schedule random ranks {world.ranks} microbatches {world.pipes[0].microbatches}",
            *(
                f"pipeline {p.name} {{ stages {len(p.ranks)} place s -> {p.ranks}[s]"
                f"{' forward only' if p.forward_only else ''} }}"
                for p in world.pipes
            ),
            *lines,
            "order rank r { let near = if r == 0 then p else " + world.pipes[-1].name,
            printed.block(block)[1:-1],
            rest(world),
            "}",
        ]
    )


def compare(world: World, text: str) -> Spec | None:
    """Both interpreters say the same. None where the order is wrong."""
    schedule = parse(Source("random.pipe", text))
    body = schedule.statements[-1]
    assert isinstance(body, s.OrderRank)
    assert world.cut is not None
    try:
        expected = [
            part_order(body.body, rank, "r", world.pipes, world.cut) for rank in range(world.ranks)
        ]
    except TooMany:
        reject()
    if None in expected:
        with pytest.raises(Rejected):
            evaluate(schedule)
        return None
    spec = evaluate(schedule)
    assert listed(spec) == expected, text
    assert all(spec.order)
    return spec


CASES = worlds().flatmap(lambda w: st.tuples(st.just(w), blocks(w[0], ("r",), (), 2)))


@given(CASES)
@settings(max_examples=int(os.environ.get("FUZZ", "100")), deadline=None)
def test_parts_are_listed_as_the_language_says(case: Any) -> None:
    (world, lines), block = case
    found = compare(world, text_of(world, lines, block))
    event("wrong" if found is None else "right")


@given(worlds(), st.randoms(use_true_random=False))
@settings(max_examples=int(os.environ.get("FUZZ", "60")), deadline=None)
def test_right_orders_with_many_pairs(case: Any, random: Random) -> None:
    world, lines = case
    world = world._replace(ranks=1, pipes=[on_one_rank(p) for p in world.pipes])
    steps = legal_steps(world, random)
    found = compare(world, text_of(world, lines, s.Block(tuple(steps), N)))
    assert found is not None
    event(f"{len(found.joined)} kinds of pairs")


def on_one_rank(p: oracle.Pipe) -> oracle.Pipe:
    return oracle.Pipe(p.name, [0] * len(p.ranks), p.microbatches, p.forward_only)


def legal_steps(world: World, random: Random) -> list[s.Step]:
    """Steps that can be taken one after the other, of whatever was drawn."""
    assert world.cut is not None
    made = PartRank(0, world.pipes, world.cut)
    env = {"r": 0, **{p.name: p for p in world.pipes}}
    steps: list[s.Step] = []
    for _ in range(30):
        step: s.Step = drawn(world, random, True)
        if random.random() < 0.5:
            step = s.Pair(drawn(world, random, False), drawn(world, random, False), N)
        trial = copy(made)
        trial.done, trial.units, trial.pending = [*made.done], [*made.units], []
        try:
            PartWalk(trial).step(step, dict(env), None)
        except (oracle.Wrong, TooMany):
            continue
        made = trial
        steps.append(step)
    return steps


def drawn(world: World, random: Random, parts: bool) -> s.Mention:
    """A mention that may well be right."""
    assert world.cut is not None
    pipe = random.choice(world.pipes)
    kinds: tuple[s.Kind, ...] = ("F", "F", "F", "B", "I", "W") if world.cut.split else ("F", "B")
    kind = "F" if pipe.forward_only else random.choice(kinds)
    names = [n for n, on in world.cut.names.items() if kind != "W" or on == COMPUTE]
    named = parts and random.random() < 0.4 and (kind != "B" or not world.cut.split) and names
    stage = number(random.randrange(len(pipe.ranks)))
    microbatch = number(random.randrange(pipe.microbatches)) if random.random() < 0.3 else None
    layer = number(random.randrange(2)) if named and random.random() < 0.3 else None
    part = word(random.choice(names)) if named else None
    return s.Mention(kind, False, part, word(pipe.name), stage, microbatch, None, layer, N)


def listed(spec: Spec) -> list[list[str]]:
    """The lists of the ranks in the words of the oracle."""
    rows = []
    for units in spec.written:
        row = []
        for (o,), _ in units:
            name, layer, _ = spec.parts[o.pipeline][o.stage][o.part]
            pipe = spec.pipelines[o.pipeline].name
            row.append(f"{o.kind} {pipe} {o.stage} {o.microbatch} {name} {layer}")
        rows.append(row)
    return rows
