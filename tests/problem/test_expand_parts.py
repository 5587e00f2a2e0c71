"""Spec → Problem where stages are cut into parts, against the language's rules, said again here
operation by operation; and what is held in memory, counted along random sequences."""

import re
from collections.abc import Sequence
from itertools import pairwise
from random import Random

import pytest
from msgspec.structs import replace

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.problem import EdgeKind, Problem
from stretto.compiler.problem.spec import (
    NONE,
    Feed,
    Operation,
    Part,
    PartFigures,
    Rule,
    Spec,
    Unit,
    show,
)
from tests.support.parts import parts_spec


def random_parts(seed: int) -> Spec:
    """A Spec whose stages have chains of their own, on up to three streams."""
    random = Random(seed)
    ranks = random.randint(1, 3)
    places = [lambda s: s, lambda s: ranks - 1 - s][: random.randint(1, 2)]
    spec = parts_spec(ranks, 2 * random.randint(1, 2), places, transfer=random.randint(0, 2))
    split = random.random() < 0.6
    chains, lines = [], []
    for line in spec.pipelines:
        row, stages = [], []
        for stage in line.stages:
            streams = [random.randrange(3) for _ in range(random.randint(1, 4))]
            chain = tuple(Part(f"p{i}", NONE, stream) for i, stream in enumerate(streams))
            figures = tuple(
                PartFigures(
                    random.randint(0, 3),
                    0 if split else random.randint(0, 5),
                    random.randint(0, 3) if split else 0,
                    random.randint(0, 3) if split and part.stream == 0 else 0,
                    random.choice((0, 0, 2, 5)),
                )
                for part in chain
            )
            held = random.randint(0, 3)
            kept = random.randint(0, held)
            row.append(chain)
            stages.append(replace(stage, parts=figures, activation=held, kept=kept))
        chains.append(tuple(row))
        lines.append(replace(line, stages=tuple(stages), forward_only=random.random() < 0.2))
    if random.random() < 0.5:
        lines[0] = replace(lines[0], feeds=(Feed(1, 0),) if len(lines) > 1 else ())
    return replace(
        spec,
        pipelines=tuple(lines),
        parts=tuple(chains),
        streams=("compute", "a", "b"),
        split_backward=split,
    )


def asked(spec: Spec) -> list[Operation]:
    """All operations, in the sequence in which they are to be numbered."""
    found = []
    for p, line in enumerate(spec.pipelines):
        for s, chain in enumerate(spec.parts[p]):
            up, down = range(len(chain)), range(len(chain) - 1, -1, -1)
            runs: list[tuple[str, Sequence[int]]] = [("F", up)]
            if not line.forward_only and spec.split_backward:
                runs += [("I", down), ("W", [i for i in down if chain[i].stream == 0])]
            elif not line.forward_only:
                runs.append(("B", down))
            for kind, parts in runs:
                found += [
                    Operation(kind, p, s, m, NONE, i)
                    for m in range(line.microbatches)
                    for i in parts
                ]
    return found


def needs(spec: Spec, one: Operation) -> set[Operation]:
    """What an operation needs, by the language."""
    kind, p, s, m, _, i = one
    back = "I" if spec.split_backward else "B"
    line = spec.pipelines[p]

    def trains(q: int) -> bool:
        return not spec.pipelines[q].forward_only

    def last(kind: str, q: int, t: int) -> Operation:
        return Operation(kind, q, t, m, NONE, len(spec.parts[q][t]) - 1 if kind == "F" else 0)

    if kind == "W":
        return {one._replace(kind="I")}
    if kind == "F":
        if i:
            return {one._replace(part=i - 1)}
        found = {last("F", p, s - 1)} if s else set()
        for q, other in enumerate(spec.pipelines):
            if (p, s) in other.feeds:
                found.add(last("F", q, len(other.stages) - 1))
        return found
    if i < len(spec.parts[p][s]) - 1:
        return {one._replace(part=i + 1)}
    found = {last("F", p, s)}
    if s + 1 < len(line.stages):
        found.add(last(back, p, s + 1))
    else:
        found |= {last(back, *feed) for feed in line.feeds if trains(feed.pipeline)}
    return found


def edges(problem: Problem, *reasons: EdgeKind) -> set[tuple[Operation, Operation]]:
    names = problem.operations
    lists = zip(problem.tail, problem.head, problem.why, strict=True)
    return {(names[a], names[b]) for a, b, why in lists if why in reasons}


@pytest.mark.parametrize("seed", range(60))
def test_every_part_has_exactly_the_edges_of_the_language(seed: int) -> None:
    spec = random_parts(seed)
    problem = expand(spec)
    assert problem.operations == asked(spec)
    assert edges(problem, *EdgeKind) == {(x, o) for o in asked(spec) for x in needs(spec, o)}
    for a, b, lag in zip(problem.tail, problem.head, problem.lag, strict=True):
        far = problem.rank[a] != problem.rank[b]
        assert lag == (spec.transfers[0].ticks if far and spec.transfers else 0)
    for i, o in enumerate(problem.operations):
        stage = spec.pipelines[o.pipeline].stages[o.stage]
        assert problem.duration[i] == getattr(stage.parts[o.part], o.kind)
        assert problem.rank[i] == stage.rank
        assert problem.stream[i] == spec.parts[o.pipeline][o.stage][o.part].stream
    assert not problem.alloc and not problem.free


@pytest.mark.parametrize("seed", range(60))
def test_what_is_held_is_what_the_language_says(seed: int) -> None:
    """Along a random sequence: a stage's activation from its first F part to the last of its I and
    W, or what `after I` leaves of it from the end of I on; a part's from its F to its W, I or B."""
    spec = random_parts(seed)
    problem, random = expand(spec), Random(seed)
    done: set[Operation] = set()
    left = list(problem.operations)
    while left:
        one = random.choice([o for o in left if needs(spec, o) <= done])
        left.remove(one)
        done.add(one)
        number = {o: i for i, o in enumerate(problem.operations)}
        there = [0] * spec.ranks
        for grains, taken, freed in problem.holdings:
            names = {problem.operations[i] for i in freed}
            if problem.operations[taken] in done and not names <= done:
                there[problem.rank[taken]] += grains
                assert {problem.rank[number[o]] for o in names} == {problem.rank[taken]}
        assert there == held(spec, done)


def held(spec: Spec, done: set[Operation]) -> list[int]:
    found = [0] * spec.ranks
    for p, line in enumerate(spec.pipelines):
        for s, stage in enumerate(line.stages):
            chain = spec.parts[p][s]
            for m in range(line.microbatches):

                def ran(kind: str, i: int) -> bool:
                    return Operation(kind, p, s, m, NONE, i) in done  # noqa: B023

                own = [i for i, part in enumerate(chain) if part.stream == 0]
                through = ran(
                    "F" if line.forward_only else "I" if spec.split_backward else "B",
                    len(chain) - 1 if line.forward_only else 0,
                )
                weights = (
                    line.forward_only or not spec.split_backward or all(ran("W", i) for i in own)
                )
                if ran("F", 0) and not (through and weights):
                    found[stage.rank] += stage.kept if through else stage.activation
                for i, figures in enumerate(stage.parts):
                    if line.forward_only:
                        over = through
                    elif spec.split_backward:
                        over = ran("W" if i in own else "I", i)
                    else:
                        over = ran("B", i)
                    if ran("F", i) and not over:
                        found[stage.rank] += figures.activation
    return found


def test_orders_bind_streams_one_by_one_and_rules_are_edges() -> None:
    spec = parts_spec(1, 1)
    rows = [
        ("F", 0),
        ("F", 1),
        ("F", 2),
        ("F", 3),
        ("I", 3),
        ("I", 2),
        ("W", 2),
        ("I", 1),
        ("I", 0),
    ]
    sequence = [Operation(kind, 0, 0, 0, NONE, i) for kind, i in [*rows, ("W", 0)]]
    rule = Rule(sequence[-1], sequence[3], 0)
    written = replace(spec, written=(tuple(Unit((o,), 0) for o in sequence),), rules=(rule,))
    problem = expand(written)
    compute = [o for o in sequence if o.part in (0, 2)]
    comm = [o for o in sequence if o.part in (1, 3)]
    between = {*pairwise(compute), *pairwise(comm)}
    assert edges(problem, EdgeKind.ORDER) == between
    assert edges(problem, EdgeKind.RULE) == {(sequence[3], sequence[-1])}


@pytest.mark.parametrize("seed", range(80))
def test_a_list_may_not_have_a_part_before_one_that_it_needs(seed: int) -> None:
    """Streams' sequences that can run, merged at random: refused exactly where a part stands before
    one of its rank that it needs, on whatever way."""
    spec, random = random_parts(seed), Random(seed)
    done: dict[Operation, None] = {}
    left = asked(spec)
    while left:
        done[random.choice([o for o in left if needs(spec, o) <= done.keys()])] = None
        left = [o for o in left if o not in done]
    lists: list[list[Operation]] = [[] for _ in range(spec.ranks)]
    for rank, row in enumerate(lists):
        streams: list[list[Operation]] = [[], [], []]
        for o in done:
            if spec.pipelines[o.pipeline].stages[o.stage].rank == rank:
                streams[spec.parts[o.pipeline][o.stage][o.part].stream].append(o)
        if random.random() < 0.3:
            row += [o for o in done if any(o in some for some in streams)]
            continue
        while any(streams):
            row.append(random.choice([some for some in streams if some]).pop(0))
    whole = {o: closure(spec, o) for o in done}
    wrong = any(later in whole[o] for row in lists for i, o in enumerate(row) for later in row[i:])
    written = replace(spec, written=tuple(tuple(Unit((o,), 0) for o in row) for row in lists))
    if not wrong:
        expand(written)
        return
    with pytest.raises(Rejected) as caught:
        expand(written)
    assert {d.code for d in caught.value.diagnostics} == {"listed-too-early"}
    for d in caught.value.diagnostics:
        said = re.match(r"rank (\d+) lists `(.*)` before `(.*)`, which it needs", d.message)
        assert said
        names = {show(spec, o): o for o in lists[int(said[1])]}
        early, needed = names[said[2]], names[said[3]]
        assert needed in whole[early]
        assert lists[int(said[1])].index(early) < lists[int(said[1])].index(needed)


def closure(spec: Spec, one: Operation) -> set[Operation]:
    found: set[Operation] = set()
    rest = [one]
    while rest:
        new = needs(spec, rest.pop()) - found
        found |= new
        rest += new
    return found


def test_streams_that_wait_in_a_circle_are_told_by_name() -> None:
    spec = parts_spec(2, 2)
    sequence = asked(spec)
    rows = [[o for o in sequence if o.stage == s] for s in (0, 1)]
    rows[0].sort(key=lambda o: (-o.microbatch, "FIW".index(o.kind)))
    rows[0] = [o for o in rows[0] if o.microbatch] + [o for o in rows[0] if not o.microbatch]
    written = tuple(tuple(Unit((o,), 0) for o in row) for row in rows)
    with pytest.raises(Rejected) as caught:
        expand(replace(spec, written=written))
    (found,) = caught.value.diagnostics
    assert found.message == "this order can never finish: ranks 0 and 1 wait for each other"
    drawn = found.notes[0]
    assert "I.comb down[0, 1, layer 0]  needs the gradient of    I.att down[1, 1, layer 0]" in drawn
    assert "`comm` of rank 0, line 1" in drawn and "is the part behind" not in drawn
