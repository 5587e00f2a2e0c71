"""The example with experts, on its four processes: a step has the gradients of one process."""

import argparse
import importlib
import sys
from typing import Any

import pytest

from tests.support.paths import ROOT
from tests.support.ranks import run


def one_of_four(rank: int, layers: int) -> Any:
    sys.path.insert(0, str(ROOT / "examples"))
    moe = importlib.import_module("moe")
    moe.train(argparse.Namespace(steps=1, layers=layers, check=True), rank)
    return True


@pytest.mark.xdist_group("ranks")
def test_the_example_is_the_model_in_one_process() -> None:
    """Raises where a gradient is another."""
    outcome = run(4, one_of_four, 2, seconds=60)
    assert all(outcome.results)
    for told in outcome.output:
        assert "gradients differ from one process's by" in told
