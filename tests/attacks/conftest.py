"""How many attacks were made and what came of them: `tally(tried=…, accepted=…)` in a test, printed
behind all tests. `make test-attacks` makes all of them, `make test` a sample."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.commands.conftest import folder, stretto

__all__ = ["folder", "stretto"]

Tally = Callable[..., None]


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Tally:
    """Note figures of this test."""

    def note(**figures: int) -> None:
        for name, figure in figures.items():
            record_property(name, figure)

    return note


@pytest.fixture
def attacks() -> Callable[[int, int], int]:
    """How many to make: of a sample, or of all."""
    return lambda sample, all: all if os.environ.get("ATTACKS") else sample


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """A line for each test with figures."""
    lines = []
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        figures = ", ".join(f"{figure} {name}" for name, figure in report.user_properties)
        if report.when == "call" and figures and "attacks" in report.nodeid:
            lines.append(f"{report.nodeid.split('::')[-1]}: {figures}")
    if lines:
        terminalreporter.section("attacks")
        terminalreporter.write("\n".join([*lines, ""]))
