"""A process of ours ends as Python ends one, in all that a user can see, and where Python aborts it
ends well: a thread that torch's store answers during the interpreter's teardown."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal, TypedDict

import pytest

from stretto.compiler.plan.plan import write_plan
from tests.support.training import compiled

LATE = """
import threading, time
from datetime import timedelta
from torch.distributed import TCPStore

keeper = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
asking = TCPStore("127.0.0.1", keeper.port, is_master=False, timeout=timedelta(seconds=60))
asked = threading.Thread(target=asking.get, args=("late",), daemon=True)
asked.start()

class Answer:
    def __del__(self, keeper=keeper, asked=asked, sleep=time.sleep):  # in the teardown
        keeper.set("late", "there")
        sleep(5)

answer = Answer()
time.sleep(0.2)
"""

LIVED = """
import atexit, ctypes, gzip, io, logging, sys, threading, time
def late():
    time.sleep(0.2)
    print("a thread that is no daemon")
atexit.register(lambda: print("first registered"))
atexit.register(lambda: print("last registered"))
atexit.register(lambda: 1 / 0)
threading.Thread(target=late).start()
text = open("text", "w")
text.write("text")
compressed = io.TextIOWrapper(gzip.GzipFile("compressed", "wb", mtime=0))
compressed.write("compressed")
changed = open("changed", "w+b")
changed.write(b"changed")
handler = logging.FileHandler("logged")
logging.getLogger().addHandler(handler)
logging.warning("logged")
ctypes.CDLL(None).printf(b"of C\\n")
print("buffered")
def main():
"""

ENDINGS = {
    "return 0": 0,
    "return 3": 3,
    "sys.exit()": 0,
    "sys.exit('words')": 1,
    "sys.exit(2)": 2,
    "sys.exit(-1)": 255,
    "sys.exit(257)": 1,
    "raise KeyError('words')": 1,
    "raise KeyboardInterrupt": -signal.SIGINT,
}
BUFFERED = {name: told for name, told in os.environ.items() if name != "PYTHONUNBUFFERED"}
PLAIN, OURS = "sys.exit(main())", "from stretto.runtime.ending import end_with; end_with(main)"


class Script(TypedDict):
    """How a script is started: in its folder, its text streams buffered as Python does it."""

    args: list[str]
    cwd: Path
    env: dict[str, str]
    text: Literal[True]


def script(folder: Path, text: str) -> Script:
    """The script of this text, written into this folder, which is made."""
    folder.mkdir(exist_ok=True)
    (folder / "script.py").write_text(text)
    return Script(args=[sys.executable, "script.py"], cwd=folder, env=BUFFERED, text=True)


def python(
    folder: Path, text: str, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE
) -> "subprocess.CompletedProcess[str]":
    """What becomes of a script in this folder."""
    return subprocess.run(**script(folder, text), stdout=stdout, stderr=stderr, timeout=110)


def told(stderr: str) -> list[str]:
    """Its lines but the frames, which are not the same ones."""
    return [re.sub("0x[0-9a-f]+", "", line) for line in stderr.splitlines() if line[0] != " "]


@pytest.mark.parametrize("ending", ENDINGS)
def test_all_that_a_user_sees_is_as_python_has_it(ending: str, tmp_path: Path) -> None:
    ends = [
        python(tmp_path / name, f"{LIVED}    {ending}\n{by}\n")
        for name, by in (("plain", PLAIN), ("ours", OURS))
    ]
    plain, ours = ends
    assert ours.returncode == plain.returncode == ENDINGS[ending]
    assert sorted(ours.stdout.splitlines()) == sorted(plain.stdout.splitlines())
    assert ours.stdout.index("no daemon") < ours.stdout.index("last registered")
    assert ours.stdout.index("last registered") < ours.stdout.index("first registered")
    assert "ZeroDivisionError" in ours.stderr
    assert told(ours.stderr) == told(plain.stderr)
    for name in ("text", "compressed", "changed", "logged"):
        found = [(tmp_path / of / name).read_bytes() for of in ("plain", "ours")]
        assert found[0] == found[1] and found[0]


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="there Python lets such a thread be")
def test_python_aborts_where_a_thread_is_answered_during_the_teardown(tmp_path: Path) -> None:
    assert python(tmp_path, LATE).returncode == -signal.SIGABRT


def test_we_do_not_abort_there(tmp_path: Path) -> None:
    done = python(tmp_path, f"{LATE}\nmain = lambda: 0\n{OURS}\n")
    assert (done.returncode, done.stderr) == (0, "")


def trained(folder: Path, before: str = "", to: str = "") -> "subprocess.CompletedProcess[str]":
    """A training of a step, of a model whose file begins so; its streams go there."""
    (folder / "mine.py").write_text(
        f"""{before}
import torch
class Mine:
    def stage(self, index, count):
        return torch.nn.Linear(2, 2)
    def loss(self, output, target):
        return (output - target).square().mean()
MODEL = Mine()
def data(step):
    return torch.ones(4, 2), torch.ones(4, 2)
"""
    )
    write_plan(compiled("gpipe", ranks=2, microbatches=4), folder / "plan")
    words = ["plan", "--local", "--model", "mine:MODEL", "--data", "mine:data", "--steps", "1"]
    return subprocess.run(
        ["sh", "-c", f'exec "$0" -m stretto.runtime "$@" {to}', sys.executable, *words],
        cwd=folder,
        env=BUFFERED,
        capture_output=True,
        text=True,
        timeout=110,
    )


def test_a_training_does_not_abort_there(tmp_path: Path) -> None:
    done = trained(tmp_path, before=LATE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("gpipe on 2 ranks: 1 step")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_a_training_needs_nobody_who_listens(tmp_path: Path) -> None:
    assert trained(tmp_path, to=">&- 2>/dev/full").returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_a_training_says_that_its_summary_is_lost(tmp_path: Path) -> None:
    done = trained(tmp_path, to=">/dev/full")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: standard output: No space left on device"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
@pytest.mark.parametrize(("code", "ends"), [(0, 1), (1, 1), (3, 3)])
def test_what_cannot_be_printed_is_told(code: int, ends: int, tmp_path: Path) -> None:
    text = f"import sys\ndef main():\n    print('lost')\n    return {code}\n{OURS}\n"
    with open("/dev/full", "w") as full:
        done = python(tmp_path, text, stdout=full.fileno())
        assert done.returncode == ends
        lost = "error: standard output: No space left on device\n"
        assert done.stderr == ("" if code else lost)
        assert python(tmp_path, text, stdout=full.fileno(), stderr=full.fileno()).returncode == ends


def test_a_pipe_that_nobody_reads_is_told(tmp_path: Path) -> None:
    text = f"import sys\ndef main():\n    print('lost')\n    return 0\n{OURS}\n"
    piped = subprocess.PIPE
    with subprocess.Popen(**script(tmp_path, text), stdout=piped, stderr=piped) as started:
        assert started.stdout is not None and started.stderr is not None
        started.stdout.close()
        assert started.stderr.read() == "error: standard output: Broken pipe\n"
    assert started.returncode == 1
