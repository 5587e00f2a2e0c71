"""A sample of the table of `make test-models`, with models of our own."""

import pytest

from tests.models.__main__ import SAMPLE
from tests.models.cells import run
from tests.models.features import FEATURES
from tests.models.zoo import ZOO

OURS = {entry.name: entry for entry in ZOO if not entry.needs}
BY_NAME = {feature.name: feature for feature in FEATURES}


@pytest.mark.parametrize("schedule", SAMPLE)
@pytest.mark.parametrize("model", ["mixture of experts", "GPT", "ResNet", "U-Net"])
def test_a_step_is_that_of_one_process(model: str, schedule: str) -> None:
    found = run(schedule, OURS[model], FEATURES[0])
    assert found.verdict == "equal", found


@pytest.mark.parametrize("feature", list(BY_NAME)[1:])
def test_a_feature_is_that_of_one_process(feature: str) -> None:
    chosen = BY_NAME[feature]
    found = run(
        "dualpipe", OURS["perceptron" if chosen.suits(OURS["perceptron"]) else "GPT"], chosen
    )
    assert found.verdict in (chosen.expected, "equal"), found
