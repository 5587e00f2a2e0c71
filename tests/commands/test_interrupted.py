"""Ctrl-C: what was found so far is kept, and what is half done is not."""

import json
from pathlib import Path

import pytest

from tests.support.command_line import Run


def test_interruption_is_no_bug(stretto: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stretto.compiler.driver.compile_text", interrupted)
    assert stretto("check", "dualpipe") == (130, "", "stretto: interrupted\n")


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


def test_an_interrupted_search_keeps_the_best_so_far(
    stretto: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    interrupting(monkeypatch, "offsets")
    code, out, err = stretto("compile", "v_half", "-o", "mine.plan", "--time-limit", "600")
    assert code == 0, err
    assert "interrupted: the best order so far is kept\n" in err
    assert "makespan" in out
    assert stretto("check", "mine.plan")[0] == 0
    (kept,) = (folder / "stretto/orders").iterdir()
    assert 0 < json.loads(kept.read_text())["seconds"] < 100  # not as if all had been spent


def test_an_interrupted_effort_is_not_remembered(
    stretto: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    interrupting(monkeypatch, "offsets")
    assert stretto("compile", "v_half", "--effort", "50")[0] == 0
    assert not (folder / "stretto/orders").exists()


@pytest.mark.parametrize("names", [("library",), ("offsets", "check")])
def test_interrupted_too_early_or_twice_it_writes_nothing(
    stretto: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    interrupting(monkeypatch, *names)
    before = set(folder.iterdir())
    code, out, err = stretto("compile", "v_half", "-o", "mine.plan", "--no-cache")
    assert (code, out) == (130, "")
    assert err.endswith("stretto: interrupted\n")
    assert set(folder.iterdir()) == before


def test_an_interrupted_run_trains_nothing(
    stretto: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupting(monkeypatch, "offsets")
    words = ("run", "v_half", "--model", "a:b", "--no-cache")
    assert stretto(*words) == (130, "", "stretto: interrupted\n")
