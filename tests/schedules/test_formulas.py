"""Closed forms of the known schedules, over ranges of sizes and costs within the domain in which
each is known to hold; and claims from the literature that are known to fail outside it.

The forms come from the papers, from the authors' code, or were fitted to an independent simulator;
P ranks, M micro-batches, v stages per rank, f, i and w the times of one stage, b = i + w, c the
transfer time.
"""

import json
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.support import library
from tests.support.library import Figures
from tests.support.paths import DATA

few = settings(max_examples=40, derandomize=True, deadline=None)

ranks = st.integers(1, 6)
times = st.integers(1, 9)


def figures(
    name: str, size: dict[str, int], f: int, i: int, w: int, c: int | Fraction = 0, more: str = ""
) -> Figures:
    costs = f"cost F = {f} cost I = {i} cost W = {w} transfer {c} {more}"
    return library.figures(library.spec(name, costs, **size))


def size(p: int, m: int, **more: int) -> dict[str, int]:
    return {"ranks": p, "microbatches": m} | more


# ---------------------------------------------------------------------- fused backward


@few
@given(ranks, st.integers(1, 14), times, times, times)
def test_gpipe_and_1f1b(p: int, m: int, f: int, i: int, w: int) -> None:
    """All three have the same makespan, for fewer micro-batches than ranks too, and differ in
    memory."""
    makespan = (m + p - 1) * (f + i + w)
    peaks: dict[str, Callable[[int], int]] = {
        "gpipe": lambda r: m,
        "one_f_one_b": lambda r: min(p - r, m),
        "eager_1f1b": lambda r: min(2 * (p - 1 - r) + 1, m),
    }
    for name, peak in peaks.items():
        got = figures(name, size(p, m), f, i, w)
        assert got.makespan == makespan
        assert got.peaks == tuple(peak(r) for r in range(p))


@few
@given(ranks, st.integers(1, 14), st.data())
def test_1f1b_with_unequal_stages(p: int, m: int, data: st.DataObject) -> None:
    """M times the heaviest stage and once each of the others, if the heaviest is the last."""
    m = max(m, p)
    stages = sorted(data.draw(st.lists(st.tuples(times, times), min_size=p, max_size=p)), key=sum)
    costs = " ".join(f"cost F[{s}] = {f} cost B[{s}] = {b}" for s, (f, b) in enumerate(stages))
    got = library.figures(library.spec("one_f_one_b", costs, **size(p, m)))
    assert got.makespan == m * sum(stages[-1]) + sum(map(sum, stages[:-1]))


@few
@given(ranks, st.integers(1, 4), st.integers(1, 3), times, times, times)
def test_interleaved(p: int, groups: int, v: int, f: int, i: int, w: int) -> None:
    m = p * groups
    got = figures("interleaved_1f1b", size(p, m, chunks=v), f, i, w)
    assert got.makespan == (m * v + p - 1) * (f + i + w)
    assert got.peaks == tuple(min(2 * (p - 1 - r) + (v - 1) * p + 1, m * v) for r in range(p))
    breadth = figures("looped_bfs", size(p, m, chunks=v), f, i, w)
    assert breadth.makespan == got.makespan
    assert set(breadth.peaks) == {m * v}


@few
@given(ranks, st.integers(1, 4), st.integers(1, 3), times)
def test_inference(p: int, groups: int, v: int, f: int) -> None:
    got = figures("inference", size(p, p * groups, chunks=v), f, 1, 1)
    assert got.makespan == (p * groups * v + p - 1) * f
    assert set(got.peaks) == {1}


@few
@given(st.sampled_from([2, 4, 6, 8]), st.integers(1, 5), times, times)
def test_chimera(d: int, units: int, f: int, b: int) -> None:
    n = d * units
    got = figures("chimera", size(d, n), f, b, 0)
    assert got.makespan == n * (f + b) + (d - 2) * (max(f, b) + (units - 1) * abs(b - f))
    assert min(got.peaks) >= d // 2 + 1 or d == 2
    assert max(got.peaks) <= d


@few
@given(st.integers(2, 8), st.integers(1, 6), times)
def test_gems(d: int, pairs: int, f: int) -> None:
    n = 2 * pairs
    got = figures("gems", size(d, n), f, f, f)
    assert got.makespan == (3 * d + (n - 1) * (2 * d + 1)) * f
    assert set(got.peaks) == {1}


@few
@given(ranks, st.integers(1, 3), st.integers(1, 3), times, times)
def test_hanayo(p: int, units: int, waves: int, f: int, b: int) -> None:
    """For M = P the proven optimum. More units cost the difference of f and b each."""
    m = p * units
    got = figures("hanayo", size(p, m, waves=waves), f, b, 0)
    idle = 2 * (p - 1) * (max(f, b) + (units - 1) * abs(f - b))
    assert got.makespan == 2 * waves * m * (f + b) + idle
    assert max(got.peaks) == 2 * waves * p


@few
@given(st.sampled_from([2, 4, 6]), st.integers(1, 3), times, times)
def test_two_models_fill_each_other(d: int, units: int, f: int, b: int) -> None:
    """Two models with equal costs run like the two directions of Chimera."""
    both = figures("two_models", size(d, units * d // 2), f, b, 0)
    chimera = figures("chimera", size(d, units * d), f, b, 0)
    assert both == chimera


# ---------------------------------------------------------------------- split backward


@few
@given(ranks, st.integers(0, 6), times, times, st.data())
def test_zb_h1(p: int, more: int, f: int, i: int, data: st.DataObject) -> None:
    w, m = data.draw(st.integers(1, min(f, i))), p + more
    got = figures("zb_h1", size(p, m), f, i, w)
    assert got.makespan == m * (f + i + w) + (p - 1) * (f + i - w)
    assert set(got.peaks) == {p}


@few
@given(st.integers(2, 6), st.integers(0, 6), times, times, st.data())
def test_zb_h2(p: int, more: int, f: int, i: int, data: st.DataObject) -> None:
    w, m = data.draw(st.integers(1, min(f, i))), 2 * p + more
    got = figures("zb_h2", size(p, m), f, i, w)
    assert got.span == m * (f + i + w) + max(0, (p - 1) * (f + i - 2 * w))
    assert set(got.peaks) == {2 * p - 1}


@few
@given(ranks, st.integers(1, 4), st.integers(1, 3), times, times, st.data())
def test_interleaved_zero_bubble(
    p: int, groups: int, v: int, f: int, i: int, data: st.DataObject
) -> None:
    w, m = data.draw(st.integers(1, min(f, i))), p * groups
    got = figures("interleaved_zero_bubble", size(p, m, chunks=v), f, i, w)
    assert got.makespan == m * v * (f + i + w) + (p - 1) * (f + i - w)
    assert set(got.peaks) == {v * p}


@few
@given(ranks, st.integers(0, 8), times)
def test_zb_v_has_no_bubble_when_all_times_are_equal(p: int, more: int, f: int) -> None:
    m = 2 * p - 1 + more
    got = figures("zb_v", size(p, m), f, f, f)
    assert got.span == 6 * m * f
    assert got.makespan == got.span + (p - 1) * f
    assert set(got.peaks) == {2 * p}


@few
@given(st.sampled_from([2, 4, 6, 8]), st.integers(0, 6), times, times, times, st.data())
def test_dualpipe(p: int, more: int, f: int, i: int, w: int, data: st.DataObject) -> None:
    m, b = 2 * p + 2 * more, i + w
    fb = data.draw(st.integers(max(f, b), f + b))
    half = p // 2
    makespan = (
        p * f
        + (half + 2) * i
        + max(half * f, (half - 1) * i)
        + (half - 1) * max(i, w)
        + 3 * w
        + (m - half - 2) * fb
    )
    for name, at in (("dualpipe", size(p, m)), ("dualpipe_v", size(half, m // 2))):
        got = figures(name, at, f, i, w, 0, f"cost F | B = {fb}")
        assert got.makespan == makespan
        assert set(got.peaks) == {p + 1}


# ---------------------------------------------------------------------- messages that take time


def slower(name: str, at: dict[str, int], f: int, i: int, w: int, c: Any, of: str) -> Fraction:
    """What messages of duration c add to a figure."""
    late, early = figures(name, at, f, i, w, c), figures(name, at, f, i, w)
    return Fraction(getattr(late, of) - getattr(early, of))


@few
@given(st.integers(2, 5), st.integers(1, 3), times, times, times, st.data())
def test_latency_of_fused_schedules(
    p: int, groups: int, f: int, i: int, w: int, data: st.DataObject
) -> None:
    m, b = p * groups, i + w
    c = data.draw(st.integers(0, min(f, b)))
    assert slower("gpipe", size(p, m), f, i, w, c, "makespan") == 2 * (p - 1) * c
    assert slower("one_f_one_b", size(p, m), f, i, w, c, "makespan") == c * (
        2 * (p - 1) * groups + 2 * p - 4
    )
    for v in (2, 3):
        at = size(p, m, chunks=v)
        assert slower("interleaved_1f1b", at, f, i, w, c, "makespan") == 2 * (p * v - 1) * c
    hidden = Fraction(data.draw(st.integers(0, f + b)), 2)
    assert slower("eager_1f1b", size(p, m), f, i, w, hidden, "makespan") == 2 * (p - 1) * hidden


@few
@given(st.integers(2, 5), st.integers(0, 4), times, times, st.data())
def test_latency_of_zero_bubble(p: int, more: int, f: int, i: int, data: st.DataObject) -> None:
    w, m = data.draw(st.integers(1, min(f, i))), 2 * p + more
    c = Fraction(data.draw(st.integers(0, w)), 2)
    assert slower("zb_h1", size(p, m), f, i, w, c, "makespan") == 4 * (p - 1) * c
    assert slower("zb_h2", size(p, m), f, i, w, c, "span") == 2 * (p - 1) * c


# ---------------------------------------------------------------------- published figures

# The Zero Bubble paper's profiled models: ranks, micro-batches, F, I, W and transfer in
# microseconds, and the rates 1 − M(F + I + W) / cost of 1F1B, interleaved 1F1B, H1 and H2, rounded
# to four places. H2's cost is its span. Interleaved with the paper's stages per rank; its value is
# the one with strict dependencies, (Mv + P − 1)(f + b) + 2(Pv − 1)c: the authors' script leaves out
# an edge, and the published values are 0.001 to 0.004 smaller.
PROFILED = [
    (8, 24, 18522, 18086, 9337, 601, 3, ".2431 .1090 .1585 .1083"),
    (8, 32, 18513, 18086, 9331, 626, 3, ".1985 .0847 .1242 .0837"),
    (8, 64, 18546, 18097, 9321, 762, 3, ".1240 .0461 .0674 .0444"),
    (8, 24, 29718, 29444, 19927, 527, 4, ".2347 .0827 .1323 .0698"),
    (8, 32, 29802, 29428, 19530, 577, 4, ".1898 .0644 .1045 .0559"),
    (8, 64, 29935, 29621, 19388, 535, 4, ".1091 .0328 .0554 .0294"),
    (16, 48, 11347, 11248, 8132, 377, 3, ".2552 .1136 .1397 .0672"),
    (16, 64, 11307, 11254, 8101, 379, 3, ".2082 .0878 .1088 .0516"),
    (16, 128, 11325, 11308, 8109, 378, 3, ".1251 .0459 .0576 .0266"),
    (32, 96, 10419, 10207, 7715, 408, 2, ".2646 .1528 .1421 .0641"),
    (32, 128, 10408, 10204, 7703, 408, 2, ".2168 .1192 .1106 .0490"),
    (32, 256, 10402, 10248, 7698, 460, 2, ".1352 .0641 .0594 .0257"),
]


@pytest.mark.parametrize(
    "profiled",
    [pytest.param(row, marks=[pytest.mark.full] if row[0] > 8 else []) for row in PROFILED],
    ids=lambda row: f"{row[0]}x{row[1]}-{row[2]}",
)
def test_profiled_models_of_the_zero_bubble_paper(profiled: tuple[Any, ...]) -> None:
    p, m, f, i, w, c, v, rates = profiled

    def rate(cost: Fraction) -> str:
        return f"{float(1 - m * (f + i + w) / cost):.4f}".removeprefix("0")

    at = size(p, m)
    parts = f"cost F = {f}/{v} cost I = {i}/{v} cost W = {w}/{v} cost B = {i + w}/{v} transfer {c}"
    interleaved = library.spec("interleaved_1f1b", parts, **at, chunks=v)
    got = [
        rate(figures("one_f_one_b", at, f, i, w, c).makespan),
        rate(library.figures(interleaved).makespan),
        rate(figures("zb_h1", at, f, i, w, c).makespan),
        rate(figures("zb_h2", at, f, i, w, c).span),
    ]
    assert got == rates.split()


# ---------------------------------------------------------------------- claims that are false


@few
@given(st.sampled_from([4, 6, 8]), times, times, times)
def test_dualpipe_idles_as_its_readme_says_only_for_equal_f_and_i(
    p: int, f: int, i: int, w: int
) -> None:
    """(P/2 − 1)(F|B + B − 3W), with B the full backward, is right for F = I and W ≤ I; and the
    form in docs/orders.md for W ≤ I ≤ F."""
    got = figures("dualpipe", size(p, 2 * p), f, i, w, 0, f"cost F | B = {f + i + w}")
    idle = got.makespan - 2 * p * (f + i + w)
    said = (p // 2 - 1) * (f + 2 * (i + w) - 3 * w)
    if w <= i <= f:
        assert idle == (p // 2 - 1) * (2 * f + i - w)
    if f == i and w <= i:
        assert idle == said
    elif f > i and w <= i:
        assert idle == said + (p // 2 - 1) * (f - i)


@few
@given(ranks, times, times, times)
def test_zb_h1_with_long_weight_gradients_idles_more(p: int, f: int, i: int, w: int) -> None:
    assume(p >= 2 and w > min(f, i))
    got = figures("zb_h1", size(p, 2 * p), f, i, w)
    assert got.makespan > 2 * p * (f + i + w) + (p - 1) * (f + i - w)


@few
@given(st.integers(3, 6), times, times, times)
def test_zb_v_has_a_bubble_when_times_differ(p: int, f: int, i: int, w: int) -> None:
    """On two ranks there are exceptions."""
    assume(len({f, i, w}) > 1)
    m = 2 * p + 2
    assert figures("zb_v", size(p, m), f, i, w).span > 2 * m * (f + i + w)


def test_other_formulas_that_are_quoted_and_false() -> None:
    # Chimera, further units with B = 2F: (D − 2) / (3N/2 + D − 2) of the makespan.
    for d, n in ((4, 8), (8, 16), (8, 32)):
        got = figures("chimera", size(d, n), 1, 1, 1).makespan
        idle = 1 - Fraction(3 * n) / got
        assert idle > Fraction(2 * (d - 2), 3 * n + 2 * (d - 2))
    # … and from four units on 1F1B is at least as fast.
    for d, n in ((4, 16), (8, 32)):
        assert figures("one_f_one_b", size(d, n), 1, 1, 1).makespan <= (
            figures("chimera", size(d, n), 1, 1, 1).makespan
        )
    # Hanayo with B = 2F: (2P − 2) / (3PW + P − 1) of the makespan; truly 2P − 2 in the sum.
    for p, waves in ((4, 1), (4, 2)):
        got = figures("hanayo", size(p, p, waves=waves), 1, 1, 1).makespan
        idle = 1 - Fraction(6 * waves * p) / got
        assert idle == Fraction(2 * p - 2, 3 * p * waves + 2 * p - 2)
        assert idle < Fraction(2 * p - 2, 3 * p * waves + p - 1)


# ---------------------------------------------------------------------- measured runs

MEASURED = json.loads((DATA / "unequal_stages_measured.json").read_text())


@pytest.mark.parametrize("run", MEASURED, ids=lambda run: run["name"])
def test_measured_runs_of_1f1b(run: dict[str, Any]) -> None:
    """Real 1F1B runs on 8 × A100 whose stages differ: the makespan is 98.5 to 100 % of what was
    measured, which has messages and the optimizer in it as well."""
    costs = "\n".join(
        f"cost F[{s}] = {f} cost B[{s}] = {b}"
        for s, (f, b) in enumerate(zip(run["tF_us"], run["tBW_us"], strict=True))
    )
    got = library.figures(library.spec("one_f_one_b", costs, **size(run["P"], run["M"])))
    assert 0.985 <= round(float(got.makespan) / 1000 / run["measured_iter_ms"], 3) <= 1
