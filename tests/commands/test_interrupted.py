"""Ctrl-C: what was found so far is kept, and what is half done is not."""

import ast
import builtins
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stretto.compiler import library
from tests.support.command_line import Run
from tests.support.paths import ROOT


@pytest.fixture(autouse=True)
def _plain_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compiled into the folders of these tests."""
    monkeypatch.setattr("stretto.compiler.order.search.loops_for", lambda *_: None)


def test_interruption_is_no_bug(stretto: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stretto.compiler.driver.compile_text", interrupted)
    assert stretto("check", "dualpipe") == (130, "", "stretto: interrupted\n")


def test_an_interruption_while_modules_are_loaded_is_a_word(
    stretto: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C when the command line loads what it needs, of which it has nothing of its own yet."""
    text = (ROOT / "compiler/cli.py").read_text()
    loaded = {n.module for n in ast.parse(text).body if isinstance(n, ast.ImportFrom)}
    assert loaded == {"time"}  # which is built in
    monkeypatch.delitem(sys.modules, "stretto.compiler.commands.screen")
    real = builtins.__import__

    def interrupted(name: str, *rest: Any) -> Any:
        if name == "stretto.compiler.commands":
            raise KeyboardInterrupt
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", interrupted)
    assert stretto("check", "dualpipe") == (130, "", "stretto: interrupted\n")


SWALLOWED = """
import builtins, os, signal, sys
from contextlib import suppress
real = builtins.__import__

def interrupted(name, *rest):
    if name == "stretto.compiler.commands":
        with suppress(KeyboardInterrupt):  # as a module in C may lose it, or worse
            os.kill(os.getpid(), signal.SIGINT)
    return real(name, *rest)

from stretto.compiler.cli import main
builtins.__import__ = interrupted
sys.argv = ["stretto", "list"]
sys.exit(main())
"""


def test_an_interruption_before_a_command_begins_raises_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWED], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stretto: interrupted\n")


def test_a_limit_of_time_that_was_not_kept_is_told(
    stretto: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds pass in the certificate, by a clock of our own."""
    from stretto.compiler import cli

    clock = iter([0.0, 6.7])
    monkeypatch.setattr(cli, "monotonic", lambda: next(clock))
    code, _, err = stretto("compile", "gpipe", "--time-limit", "4", "-o", "mine.plan")
    assert code == 0 and "this took 6.7 s, and --time-limit says 4" in err
    clock = iter([0.0, 4.3])
    assert "this took" not in stretto("compile", "gpipe", "--time-limit", "4")[2]


def interrupting(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Ctrl-C when these engines, or the `check` of what they found, begin."""
    from stretto.compiler.order import search
    from stretto.compiler.order.engines.table import Engine

    real = Engine.run

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    def run(engine: Engine, state: object, share: float) -> None:
        if engine.name in names:
            raise KeyboardInterrupt
        real(engine, state, share)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "run", run)
    if "check" in names:
        monkeypatch.setattr(search, "check", interrupted)


@pytest.fixture
def open_case(folder: Path) -> str:
    """A file for which no published order is as good as the bound, so that there is a search."""
    text = library.read("v_half").text
    less = text.replace("limit activations <= ranks + 2 ", "limit activations <= ranks + 1 ")
    assert less != text
    (folder / "open.pipe").write_text(less)
    return "open.pipe"


def test_an_interrupted_search_keeps_the_best_so_far(
    stretto: Run, folder: Path, open_case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    interrupting(monkeypatch, "offsets")
    code, out, err = stretto("compile", open_case, "-o", "mine.plan", "--time-limit", "600")
    assert code == 0, err
    assert "interrupted: the best order so far is kept; once more stops at once\n" in err
    assert "makespan" in out
    assert stretto("check", "mine.plan")[0] == 0
    (kept,) = (folder / "stretto/orders").iterdir()
    assert 0 < json.loads(kept.read_text())["seconds"] < 100  # not as if all had been spent


def test_an_interrupted_effort_is_not_remembered(
    stretto: Run, folder: Path, open_case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    interrupting(monkeypatch, "offsets")
    assert stretto("compile", open_case, "--effort", "50")[0] == 0
    assert not (folder / "stretto/orders").exists()


@pytest.mark.parametrize("names", [("library",), ("offsets", "check")])
def test_interrupted_too_early_or_twice_it_writes_nothing(
    stretto: Run,
    folder: Path,
    open_case: str,
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[str, ...],
) -> None:
    interrupting(monkeypatch, *names)
    before = set(folder.iterdir())
    code, out, err = stretto("compile", open_case, "-o", "mine.plan", "--no-cache")
    assert (code, out) == (130, "")
    assert err.endswith("stretto: interrupted\n")
    assert set(folder.iterdir()) == before


def test_an_interrupted_run_trains_nothing(
    stretto: Run, folder: Path, open_case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupting(monkeypatch, "offsets")
    words = ("run", open_case, "--model", "a:b", "--no-cache")
    code, out, err = stretto(*words)
    assert (code, out) == (130, "") and err.endswith("stretto: interrupted\n")


def test_an_interrupted_search_is_explained(
    stretto: Run, open_case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first search: the best order so far, with nothing tried. In what is tried: what was
    found until then."""
    interrupting(monkeypatch, "offsets")
    code, out, err = stretto("explain", open_case, "--no-cache", "--time-limit", "600")
    assert code == 0, err
    assert "interrupted: the best order so far is kept" in err
    assert "the chain of operations that makes it" in out
    assert "(interrupted: what would help was not tried)" in out


def test_a_signal_in_the_proof_does_not_lose_what_explain_found(
    stretto: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    signalled(monkeypatch, AFTER[0], signal.SIGINT)
    sizes = ("--set", "ranks=3", "--set", "microbatches=4", "--no-cache")
    code, out, err = stretto("explain", "v_half", "--effort", "0", *sizes)
    assert code == 0, err
    assert "interrupted: the order is there" in err
    assert "(interrupted: what would help was not tried)" in out


def test_interrupted_trying_is_told(
    stretto: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = ("--set", "ranks=3", "--set", "microbatches=4", "--effort", "0")
    assert stretto("compile", "v_half", "-o", "mine.plan", *sizes)[0] == 0

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stretto.compiler.analysis.what_if.better", interrupted)
    code, out, err = stretto("explain", "mine.plan", "--effort", "0")
    assert code == 0, err
    assert "(not tried, interrupted: one more activation on every rank" in out


def signalled(
    monkeypatch: pytest.MonkeyPatch, where: str, *signals: signal.Signals
) -> Callable[[], None]:
    """Signals come, one after the other, when this function begins; it then goes on."""
    module, _, name = where.rpartition(".")
    real: Any = None

    def begins(*arguments: Any, **more: Any) -> Any:
        for number in signals:
            os.kill(os.getpid(), number)
        return real(*arguments, **more)

    from importlib import import_module

    real = getattr(import_module(module), name)
    monkeypatch.setattr(where, begins)
    return lambda: monkeypatch.setattr(where, real)


AFTER = ("stretto.compiler.driver.prove_all", "stretto.compiler.commands.outputs.write_all")
"""What comes after the search: the proof, and the writing."""


@pytest.mark.parametrize("where", AFTER)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_order_that_was_found_is_not_lost(
    stretto: Run,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    number: signal.Signals,
) -> None:
    """A signal while it is proved or written: the plan is finished, with a word; a second one ends
    the command, and nothing is written."""
    sizes = ("--set", "ranks=3", "--set", "microbatches=4")
    words = ("compile", "v_half", *sizes, "--effort", "0", "-o", "mine.plan", "--no-cache")
    undo = signalled(monkeypatch, where, number)
    code, out, err = stretto(*words)
    assert code == 0 and "makespan" in out
    assert "interrupted: the order is there, and its plan is finished" in err
    assert stretto("check", "mine.plan")[0] == 0 if where == AFTER[1] else True
    undo()
    Path("mine.plan").unlink()
    before = set(folder.iterdir())
    signalled(monkeypatch, where, number, number)
    code, out, err = stretto(*words)
    assert (code, out) == (128 + number, "")
    assert err.endswith("stretto: interrupted\n")
    assert set(folder.iterdir()) == before


def test_what_was_written_is_not_finished_against_ones_will(
    stretto: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An order of the author's is not lost by a Ctrl-C."""
    signalled(monkeypatch, AFTER[0], signal.SIGINT)
    before = set(folder.iterdir())
    code, out, _ = stretto("compile", "gpipe", "-o", "mine.plan")
    assert (code, out) == (130, "")
    assert set(folder.iterdir()) == before


@pytest.mark.parametrize("where", ["order.search.bound", "order.search.start_search"])
def test_before_there_is_an_order_nothing_is_written(
    stretto: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    signalled(monkeypatch, f"stretto.compiler.{where}", signal.SIGTERM)
    before = set(folder.iterdir())
    code, out, err = stretto("compile", "v_half", "-o", "mine.plan", "--no-cache", "--effort", "0")
    assert (code, out, err) == (143, "", "stretto: interrupted\n")
    assert set(folder.iterdir()) == before
