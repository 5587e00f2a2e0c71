"""Pairs of operations that are cut into parts: against all sequences there are, against the spans
that were published for one pair, and against the least period of a rank that runs one after the
other."""

from itertools import pairwise
from random import Random
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stretto.compiler.problem.interleave import interleave
from stretto.compiler.problem.spec import Part
from stretto.compiler.problem.strands import Strand, StrandLink
from stretto.compiler.problem.wholes import parts_of, strand
from tests.support.interleavings import Item, in_turns, the_sequence, ticks
from tests.support.parts import CHAIN, COSTS, chain


def operation(kind: str, costs: str, layers: int = 1, split: bool = True) -> Strand:
    """A whole operation of a stage of so many layers."""
    rows: dict[str, tuple[int, ...]] = dict(zip("FIW", COSTS[costs], strict=True))
    rows["B"] = tuple(a + b for a, b in zip(rows["I"], rows["W"], strict=True))
    own = chain(layers)
    return strand(parts_of(kind, own, split), own, lambda k, n: rows[k][n % len(CHAIN)])


@st.composite
def pairs(draw: Any, longest: int) -> tuple[Strand, Strand]:
    """Two operations of chains on two or three streams."""
    streams = draw(st.integers(2, 3))
    split = draw(st.integers(0, 4)) > 0
    found = []
    for kind in (draw(st.sampled_from("BBIWF")), draw(st.sampled_from("FFFBIW"))):
        own = tuple(
            Part(f"p{n}", -1, draw(st.integers(0, streams - 1)))
            for n in range(draw(st.integers(1, longest)))
        )
        whole = parts_of(kind if split else "BF"[kind == "F"], own, split)
        found.append(strand(whole, own, lambda *_: cast(int, draw(st.integers(0, 9)))))
    return found[0], found[1]


@given(pairs(3))
@settings(max_examples=150, deadline=None)
def test_no_sequence_is_shorter(two: tuple[Strand, Strand]) -> None:
    found = interleave(*two)
    assert (list(found.sequence), found.span) == the_sequence(two)
    turns = in_turns(two)
    assert turns is not None
    assert found.turns == ticks(two, turns)


def test_one_goes_ahead_where_turns_are_longer() -> None:
    """An embedding that hands no gradient on: its forward first, then turns."""
    own = (Part("embedding", -1, 0), *chain(1))
    forward = strand(parts_of("F", own, True), own, lambda _, n: (1, 2, 3, 2, 3)[n])
    costs = {"I": (0, 2, 3, 2, 3), "W": (1, 2, 0, 2, 0)}
    backward = strand(parts_of("B", own, True), own, lambda kind, n: costs[kind][n])
    found = interleave(backward, forward)
    assert (found.span, found.turns) == (14, 18)
    assert list(found.sequence) == in_turns((backward, forward), 1, 1)


def test_a_weight_gradient_may_wait() -> None:
    """Where the gradient hurries on, what is shorter is found although no turns have it."""
    backward = (StrandLink(0, 1), StrandLink(0, 9, True), StrandLink(0, 1), StrandLink(1, 9))
    forward = (StrandLink(1, 1),)
    found = interleave(backward, forward)
    assert (found.span, found.turns) == (11, 20)
    assert found.sequence.index((0, 1)) > found.sequence.index((0, 2))


def test_more_links_than_all_sequences_can_be_looked_at_for() -> None:
    """Long ones of unlike costs: above what is exact the same sequence every time, and never a
    longer one than turns."""
    long = tuple(StrandLink(n % 2, 7 * n % 11 + 1) for n in range(60))
    other = tuple(StrandLink((n + 1) % 2, 5 * n % 13 + 1) for n in range(50))
    found = interleave(long, other)
    interleave.cache_clear()
    assert found == interleave(long, other)
    assert found.span < found.turns
    assert found.span == ticks((long, other), list(found.sequence))


# ---- Published figures: the costs of `tests.support.parts` with spans proved optimal elsewhere

SPANS = {
    "unit": (6, 12, 24),
    "1to1": (13, 25, 49),
    "dsv3": (317, 634, 1268),
    "light": (26, 52, 104),
    "heavy": (16, 32, 64),
}
LOADS = {"unit": 6, "1to1": 12, "dsv3": 317, "light": 26, "heavy": 16}


@pytest.mark.parametrize("costs", SPANS)
def test_published_pairs(costs: str) -> None:
    for layers, span in zip((1, 2, 4), SPANS[costs], strict=True):
        found = interleave(operation("B", costs, layers), operation("F", costs, layers))
        assert (found.span, found.turns) == (span, span)


def test_a_backward_with_its_weight_gradients_inside() -> None:
    for layers, (fused, no_weight) in zip((1, 2, 4), ((14, 12), (28, 24), (56, 48)), strict=True):
        forward = operation("F", "1to1", layers)
        assert interleave(operation("B", "1to1", layers, split=False), forward).span == fused
        assert interleave(operation("I", "1to1", layers), forward).span == no_weight


@pytest.mark.parametrize("costs", SPANS)
def test_a_pair_more_costs_the_larger_load(costs: str) -> None:
    """One rank, F, then F | B again and again, then B: nothing else binds the streams."""
    for layers in (1, 2, 4, 16):
        backward, forward = operation("B", costs, layers), operation("F", costs, layers)
        found = interleave(backward, forward).sequence
        spans = [_steady(backward, forward, found, many) for many in range(2, 8)]
        assert {b - a for a, b in pairwise(spans)} == {LOADS[costs] * layers}


def _steady(backward: Strand, forward: Strand, pair: tuple[Item, ...], many: int) -> int:
    """The makespan of so many micro-batches."""
    free, ended = [0, 0], {(1, 0): 0}  # of (operation, micro-batch) the last link but weights

    def run(o: int, microbatch: int, link: StrandLink) -> None:
        need = ended.get((o, microbatch), ended[1, microbatch] if o == 0 else 0)
        start = free[link.stream] if link.weight else max(free[link.stream], need)
        free[link.stream] = start + link.ticks
        if not link.weight:
            ended[o, microbatch] = start + link.ticks

    for link in forward:
        run(1, 0, link)
    for m in range(1, many):
        for o, i in pair:
            run(o, m - 1 + o, (backward, forward)[o][i])
    for link in backward:
        run(0, many - 1, link)
    return max(free)


def test_the_search_ends_where_many_sequences_are_nearly_as_short() -> None:
    """Long links of unlike costs on four streams, of which no set of waiting weight gradients is
    like another: the search leaves beginnings out, and says the same every time."""
    random = Random(1)
    own = tuple(Part(f"p{n}", -1, random.choice((0, 0, 1, 2, 3))) for n in range(26))
    ticks_of = {(kind, n): random.randint(0, 1000) for kind in "FIW" for n in range(len(own))}
    both = tuple(
        strand(parts_of(kind, own, True), own, lambda k, n: ticks_of[k, n]) for kind in "BF"
    )
    found = interleave(*both)
    interleave.cache_clear()
    assert found == interleave(*both)
    assert found.span == ticks((both[0], both[1]), list(found.sequence)) < found.turns
