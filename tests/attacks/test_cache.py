"""Damaged and forged entries in the folder of orders that were found before: whatever stands there,
a compile ends with what it would have found, or a good order that it has checked itself, and never
claims more of it than the theorems prove."""

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from stretto.compiler.commands.load import from_plan
from stretto.compiler.driver import compile_text
from stretto.compiler.order import cache
from stretto.compiler.order.budget import Budget
from stretto.compiler.order.engines.parts.starts import NAMES, PAIRED
from stretto.compiler.order.engines.published import FAMILIES
from stretto.compiler.order.engines.table import PUBLISHED, finders
from stretto.compiler.order.kept import compiling, keep, kept
from stretto.compiler.order.kernels import jit
from stretto.compiler.plan.plan import Plan, write_plan
from stretto.compiler.show.summary import of_plan
from tests.attacks.conftest import Tally

OPEN = """\
schedule open ranks 3 microbatches 3
split B into I, W
pipeline main { stages 6 }
limit activations <= 4
"""
BUDGET = Budget(effort=0, cache=True)


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Plan]:
    """The file of an order that was found, and the plan that was made of it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    plan = compile_text(OPEN, "open.pipe", budget=BUDGET)
    (file,) = (tmp_path / "stretto/orders").glob("*.json")
    return file, plan


def test_an_entry_claims_nothing(entry: tuple[Path, Plan]) -> None:
    """A false proof in it makes no plan optimal, and its engine is one that there is."""
    file, plan = entry
    found = json.loads(file.read_text())
    assert found.keys() == {"sequence", "engine", "seconds"}
    makespan = plan.claims["train"].makespan
    for more in ({"proven": makespan}, {"bound": makespan}, {"engine": "God", "seconds": 1e8}):
        file.write_text(json.dumps({**found, **more}))
        again = compile_text(OPEN, "open.pipe", budget=BUDGET)
        assert again.bound == plan.bound and again.engine == plan.engine
        assert not of_plan(again).optimal


def test_an_order_of_a_search_that_knew_fewer_schedules_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one from before V-Half was known, which is optimal here and would never be tried."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    entries = []
    for known in (finders() - {"v_half"}, finders()):
        monkeypatch.setattr(cache, "finders", lambda known=known: known)
        compile_text(OPEN, "open.pipe", budget=BUDGET)
        entries.append(len(list((tmp_path / "stretto/orders").glob("*.json"))))
    assert entries == [1, 2]


def test_a_damaged_entry_is_passed_over(
    entry: tuple[Path, Plan], attacks: Callable[[int, int], int], tally: Tally
) -> None:
    file, plan = entry
    found, random = json.loads(file.read_text()), Random(1)
    texts: list[bytes] = [b"", b"null", b"[" * 100_000, b"\xff\xfe", b"{}", b"0" * 10_000]
    values: list[Any] = [
        None,
        True,
        -5,
        1.5,
        "x",
        [],
        {},
        [[]],
        1 << 70,
        float("nan"),
        float("inf"),
    ]
    for key in found:
        texts += [json.dumps({**found, key: value}).encode() for value in values]
        texts.append(json.dumps({k: v for k, v in found.items() if k != key}).encode())
    for _ in range(attacks(10, 400)):
        sequence = list(found["sequence"])
        for _ in range(random.randint(1, 3)):
            what, i = random.choice(["swap", "drop", "change"]), random.randrange(len(sequence))
            if what == "swap":
                j = random.randrange(len(sequence))
                sequence[i], sequence[j] = sequence[j], sequence[i]
            elif what == "drop":
                del sequence[i]
            else:
                sequence[i] = random.choice([-1, 0, 1, sequence[i] + 1, 10**6, 10**12, 10**30])
        texts.append(json.dumps({**found, "sequence": sequence}).encode())
    chosen = random.sample(texts, attacks(16, len(texts)))
    for text in chosen:
        file.write_bytes(text)
        again = compile_text(OPEN, "open.pipe", budget=BUDGET)
        write_plan(again, file.parent / "again.plan")
        from_plan(str(file.parent / "again.plan"))
        assert again.bound == plan.bound
    tally(entries=len(chosen), crashes=0)


def test_what_a_search_proved_is_proved_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not read from a file: the second compile has no less and no more than the first."""
    pytest.importorskip("ortools")
    monkeypatch.setattr("stretto.compiler.order.search.loops_for", lambda *_: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = "schedule tiny ranks 2 microbatches 2\nparam f = 1\npipeline main { stages 4 }\n"
    plans = [
        compile_text(text, "tiny.pipe", budget=Budget(seconds=5, cache=True)) for _ in range(2)
    ]
    assert plans[0].bound == plans[1].bound and plans[0].claims == plans[1].claims


def test_the_names_of_published_schedules_are_known() -> None:
    """Whose order `library` may say it is, the table has: else the entry would be refused."""
    source = "".join(
        Path(str(family.__code__.co_filename)).read_text() for family in FAMILIES.values()
    )
    in_parts = {*NAMES.values(), PAIRED}
    assert in_parts <= PUBLISHED
    assert all(f'yield "{name}"' in source for name in PUBLISHED - in_parts)
    assert source.count('yield "') >= len(PUBLISHED - in_parts)


LOOP = """
from stretto.compiler.order.kernels.jit import compiled

@compiled
def loop(x):
    return x + 1
"""


def test_compiled_loops_outlive_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    """What is damaged in it is compiled again, and kept; where nothing can be kept, nothing is."""
    if not jit.available():
        pytest.skip("numba is not here")
    jit.engage()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    jit.loops_folder.cache_clear()
    module = tmp_path / "loop.py"
    module.write_text(LOOP)

    def hits() -> int:
        spec = importlib.util.spec_from_file_location("loop", module)
        assert spec and spec.loader
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        assert loaded.loop(4) == 5
        return sum(loaded.loop.stats.cache_hits.values())

    try:
        assert (hits(), hits()) == (0, 1)
        tried = 0
        for ending in ("nbi", "nbc"):
            for damage in (b"", b"nonsense", b"\x80\x05cno_module\nf\n.", None):
                for file in (tmp_path / "cache").rglob(f"*.{ending}"):
                    file.unlink() if damage is None else file.write_bytes(damage)
                assert (hits(), hits()) == (0, 1), (ending, damage)
                tried += 1
        for file in (tmp_path / "cache").rglob("*.nbc"):  # what is to be written is a folder
            file.unlink()
            file.mkdir()
            assert hits() == 0
        tally(damaged=tried + 1, crashes=0)
    finally:
        jit.disengage()
        jit.loops_folder.cache_clear()


@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize("how", ["anybody", "a group", "another's"])
def test_what_others_may_have_put_there_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, level: int
) -> None:
    """Compiled loops are pickles: of a folder that others may write, or above which they may, none
    is read and none is kept there."""
    if how != "anybody" and os.getuid():
        pytest.skip("only the administrator may give folders away")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    jit.loops_folder.cache_clear()
    try:
        folder = jit.loops_folder()
        assert folder is not None
        folder.mkdir(parents=True)
        keep("whole")
        wrong = [folder, *folder.parents][level]
        if how == "another's":
            os.chown(wrong, 12345, -1)
        else:
            os.chown(wrong, -1, 12345 if how == "a group" else -1)
            wrong.chmod(0o777 if how == "anybody" else 0o775)
        jit.loops_folder.cache_clear()
        assert jit.loops_folder() is None and not kept("whole")
        assert jit.available() and compiling("whole") is None
        wrong.chmod(0o1777)  # as `/tmp` is: right above others, not as the folder itself
        jit.loops_folder.cache_clear()
        assert (jit.loops_folder() == folder) == (level > 0 and how != "another's")
    finally:
        jit.loops_folder.cache_clear()


def test_a_link_to_a_folder_of_others_is_none_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one that stands where they may write."""
    (tmp_path / "theirs").mkdir(mode=0o700)
    (tmp_path / "theirs").chmod(0o777)
    (tmp_path / "mine").mkdir()
    (tmp_path / "cache").symlink_to("theirs")
    (tmp_path / "theirs" / "cache").symlink_to("../mine")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("cache", "theirs/cache", "loop"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        jit.loops_folder.cache_clear()
        assert jit.loops_folder() is None, name
    jit.loops_folder.cache_clear()


@pytest.mark.parametrize("home", ["", "relative", None])
def test_without_a_home_nothing_is_kept_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    """No folder `~` in the one where a command runs, and no other either."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", home or "")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as where no user is known
    jit.loops_folder.cache_clear()
    try:
        assert jit.loops_folder() is None and not kept("whole")
        plans = [compile_text(OPEN, "open.pipe", budget=BUDGET) for _ in range(2)]
        assert plans[0].hash == plans[1].hash
    finally:
        jit.loops_folder.cache_clear()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("file", "loop", "/dev/full", "/proc/none"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        compile_text(OPEN, "open.pipe", budget=BUDGET)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "loop"}
