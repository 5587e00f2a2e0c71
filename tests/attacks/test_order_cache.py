"""The folder of orders under attack as a file system: entries of other problems, links, pipes and
devices in place of entries, entries without end, several writers, a full disk, folders that may not
be written. A compile ends as it would without a folder, and leaves nothing half written."""

import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from stretto.compiler.driver import compile_text
from stretto.compiler.order.budget import Budget
from stretto.compiler.plan.plan import Plan
from tests.attacks.conftest import Tally

BUDGET = Budget(effort=0, cache=True)


def text(microbatches: int) -> str:
    return f"""\
schedule open ranks 3 microbatches {microbatches}
split B into I, W
pipeline main {{ stages 6 }}
limit activations <= 4
"""


def compiled(microbatches: int = 3) -> Plan:
    return compile_text(text(microbatches), "open.pipe", budget=BUDGET)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where orders are kept, with one in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiled()
    return tmp_path / "stretto/orders"


def entry(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def test_an_entry_under_the_key_of_another_problem_is_not_believed(folder: Path) -> None:
    honest, here = compiled(), entry(folder)
    for other in (2, 4, 5):
        compiled(other)
        (there,) = [path for path in folder.iterdir() if path != here]
        here.write_bytes(there.read_bytes())
        there.unlink()
        again = compiled()
        assert again.claims == honest.claims and again.bound == honest.bound


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _elsewhere(path: Path) -> None:
    path.symlink_to(path.parent.parent / "elsewhere")


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _huge(path: Path) -> None:
    with path.open("wb") as file:  # 10 GB, of which no block is written
        file.write(b'{"sequence": [')
        file.truncate(10 << 30)


def _digits(path: Path) -> None:
    found = {"sequence": [int("9" * 4000)], "engine": "list", "seconds": 1}
    path.write_text(json.dumps(found))


THINGS: list[Callable[[Path], None]] = [
    _loop,
    _pipe,
    _elsewhere,
    _endless,
    _huge,
    _digits,
    Path.mkdir,
]


@pytest.mark.parametrize("thing", THINGS, ids=lambda thing: thing.__name__.strip("_"))
def test_what_stands_in_place_of_an_entry_is_passed_over(
    folder: Path, thing: Callable[[Path], None]
) -> None:
    honest, here = compiled(), entry(folder)
    here.unlink()
    thing(here)
    again = compiled()
    assert again.hash == honest.hash
    assert [path.name for path in folder.iterdir()] == [here.name]


def test_a_link_is_not_followed_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    """What it leads to stays as it is."""
    honest, here = compiled(), entry(folder)
    precious = tmp_path / "precious"
    precious.write_text("mine")
    here.unlink()
    here.symlink_to(precious)
    assert compiled().hash == honest.hash
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_where_nothing_can_be_written_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The disk is full or the folder not ours: at the first byte, or when all is put in place."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    honest = compile_text(text(3), "open.pipe", budget=Budget(effort=0))

    def fails(*args: object, **more: object) -> None:
        raise OSError(number, os.strerror(number))

    for place in ("stretto.compiler.order.cache.atomic_write", "os.replace", "os.fsync"):
        with monkeypatch.context() as patched:
            patched.setattr(place, fails)
            assert compiled().hash == honest.hash
        left = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert all(path.suffix == ".json" and json.loads(path.read_bytes()) for path in left)


def test_several_writers_leave_one_whole_entry(folder: Path, tally: Tally) -> None:
    honest, here = compiled(), entry(folder)
    here.unlink()
    hashes, errors = list[str](), list[BaseException]()

    def write() -> None:
        try:
            for _ in range(5):
                here.unlink(missing_ok=True)
                hashes.append(compiled().hash)
        except BaseException as error:
            errors.append(error)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert not errors and set(hashes) == {honest.hash}
    assert {path.suffix for path in folder.iterdir()} <= {".json"}
    compiled()
    assert json.loads(entry(folder).read_bytes()).keys() == {"sequence", "engine", "seconds"}
    tally(compiles=len(hashes), writers=4)
