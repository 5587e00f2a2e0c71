"""Options of the test suite, and the order of its tests where they run beside each other."""

import os
import signal

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-cases`."""
    parser.addoption(
        "--update-cases",
        action="store_true",
        help="write the expected texts in tests/cases/ anew; the diff is then read like code",
    )


def pytest_configure() -> None:
    """A shell that starts the suite in the background has Ctrl-C ignored, and `nohup` a terminal's
    end: so would every process that a test starts in order to end it so. A width
    of whoever starts the suite, xdist among them, is none of the tests'."""
    os.environ.pop("COLUMNS", None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Searches first: on a new machine their loops are compiled, for most of a minute, by one
    worker, while the other is busy with the group of ranks, which xdist starts first because it is
    the largest."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.path.parent.name != "order")
