"""Random order blocks, for hypothesis: of stages that are whole, or cut into parts."""

from typing import Any, NamedTuple

from hypothesis import strategies as st

from stretto.compiler.language import syntax as s
from tests.support import orders_oracle as oracle
from tests.support import printed
from tests.support.parts_oracle import Cut

N = printed.NOWHERE


class World(NamedTuple):
    """What an order is for: ranks, pipelines, slices, and how stages are cut."""

    ranks: int
    pipes: list[oracle.Pipe]
    slices: int
    cut: Cut | None = None


def word(text: str) -> s.Word:
    return s.Word(text, N)


def number(n: int) -> s.Number:
    return s.Number(n, N)


@st.composite
def worlds(draw: Any) -> World:
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
    return World(ranks, pipes, draw(st.sampled_from([0, 0, 2])))


@st.composite
def blocks(draw: Any, world: World, names: tuple[str, ...], queues: tuple[str, ...], depth: int):  # type: ignore[no-untyped-def]
    """A block; `names` are numbers that are known in it, a queue is listed where it has one name
    that begins with `!`."""
    _, pipes, slices, cut = world
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

    def mention(kinds: str = "FFFBBIW", optional: bool = True, parts: bool = True) -> s.Mention:
        pipe = draw(st.sampled_from([None, *(p.name for p in pipes), "near"]))
        stage = small() if draw(st.booleans()) else None
        named = stage is not None and draw(st.integers(0, 2)) == 0
        if cut is not None and draw(st.integers(0, 2)):  # where it may well stand
            some_pipe = draw(st.sampled_from(pipes))
            pipe = some_pipe.name
            stage = number(draw(st.integers(0, len(some_pipe.ranks) - 1)))
        kind = draw(st.sampled_from(kinds))
        named_part = None
        if cut is not None and parts and draw(st.integers(0, 2)):
            if kind == "B" and cut.split:
                kind = draw(st.sampled_from("IW"))
            some = [name for name, on in cut.names.items() if kind != "W" or on == "compute"]
            named_part = draw(st.sampled_from([*some, *some, "a"]))
        in_layer = named_part is not None and draw(st.integers(0, 3)) == 0
        return s.Mention(
            kind,
            optional and draw(st.integers(0, 2)) == 0,
            word(named_part) if named_part else None,
            word(pipe) if pipe else None,
            stage,
            small() if named else None,
            number(draw(st.integers(0, 1))) if slices and draw(st.integers(0, 3)) == 0 else None,
            small() if in_layer else None,
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
            kinds = ("F", "BBI")
            if cut is not None:
                both = ["FF", "FF", "BB", "FB", "BF"]
                both += ["II", "IF", "WF", "WW", "FI", "IW"] if cut.split else []
                kinds = draw(st.sampled_from(both))
            pair = mention(kinds[0], False, False), mention(kinds[1], False, False)
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
