"""The mean under jitter, beside what probability says of it."""

import pytest

from stretto.compiler.analysis.jitter import JitteredMean, mean_under_jitter
from stretto.compiler.driver import compile_text
from stretto.compiler.order.budget import Budget
from stretto.compiler.show.summary import mean_words

ALONE = "schedule a\nranks {n}\nmicrobatches 1\n{pipelines}minimize {aim} under jitter 1/2\n"


def mean(text: str) -> JitteredMean:
    """Of the plan's step, or where nothing is trained its forwards."""
    plan = compile_text(text, "a.pipe", budget=Budget(effort=0))
    found = mean_under_jitter(next(iter(plan.programs.values())))
    assert found is not None
    return found


def forwards(many: int) -> str:
    """So many stages that have nothing to do with each other, each on its rank, each with one
    operation."""
    return "".join(
        f"pipeline p{k} {{ stages 1 place s -> {k} forward only }}\n" for k in range(many)
    )


def near(found: JitteredMean, expected: float) -> bool:
    return abs(found.value - expected) < 4 * found.error


@pytest.mark.parametrize("many", [2, 5])
def test_the_longest_of_several(many: int) -> None:
    """The mean of the largest of n uniform draws from 1 - j to 1 + j is 1 + j (n - 1) / (n + 1)."""
    found = mean(ALONE.format(n=many, pipelines=forwards(many), aim="makespan"))
    assert near(found, 1 + 0.5 * (many - 1) / (many + 1))
    assert 0 < found.error < 0.05


def test_a_chain_takes_as_long_as_without() -> None:
    """What waits in line adds up: its mean is the sum of means. Transfers do not vary."""
    chain = "pipeline main { stages 3 place s -> s forward only }\ntransfer 5/7\ncost F = 1/3\n"
    found = mean(ALONE.format(n=3, pipelines=chain, aim="makespan"))
    assert near(found, 3 / 3 + 2 * 5 / 7)
    # Of three thirds, each uniform and ± a half, the deviation is known too.
    assert found.error * found.samples**0.5 == pytest.approx(
        (3 * (1 / 3) ** 2 / 12) ** 0.5, rel=0.2
    )


def test_the_span_is_of_one_rank() -> None:
    chain = "pipeline main { stages 3 place s -> s forward only }\ncost F[1] = 9\n"
    assert near(mean(ALONE.format(n=3, pipelines=chain, aim="span")), 9)


def test_pairs_vary_as_one() -> None:
    """Two overlapped units on their own ranks: the longer of two draws about 400."""
    text = (
        "schedule a\nranks 2\nmicrobatches 2\noverlap F | B\n"
        "cost F | B = 400\ncost F = 0\ncost B = 0\n"
        "pipeline p { stages 1 place s -> 0 }\npipeline q { stages 1 place s -> 1 }\n"
        "order rank r { F; F | B; B }\nminimize makespan under jitter 1/2\n"
    )
    assert near(mean(text), 400 * (1 + 0.5 / 3))


def test_nothing_is_said_without_jitter_and_of_very_large_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = ALONE.format(n=2, pipelines=forwards(2), aim="makespan")
    plan = compile_text(text.replace(" under jitter 1/2", ""), "a.pipe")
    assert plan.summary()["mean"] is None
    plan = compile_text(text, "a.pipe")
    monkeypatch.setattr("stretto.compiler.analysis.jitter.LARGEST", 1)
    assert plan.summary()["mean"] is None


def test_a_mean_is_told_to_two_figures_of_its_error() -> None:
    words = mean_words("makespan", 0.2, JitteredMean(279.0337, 0.3812, 200))
    assert words == "mean makespan 279.03 ± 0.38 where durations vary by 20.0 %"
    words = mean_words("span", 0.2, JitteredMean(27903.37, 38.12, 12))
    assert words == "mean span 27903 ± 38 where durations vary by 20.0 %"
