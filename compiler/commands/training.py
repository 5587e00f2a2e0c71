"""A training as a child process. In comes a command line, out come an exit code and, as the last
line that the user sees, why it failed. Whatever ends us, SIGKILL too, ends the training, and leaves
no process and no file behind."""

import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from stretto.compiler.commands import files
from stretto.compiler.commands.leftovers import end_left

ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 45  # seconds; torchrun itself gives its workers 30 before it kills them
FOLDER, STDERR = "STRETTO_RUN", "STRETTO_STDERR"  # what the ranks look for
SAFE, SAFE_BY_US = "PYTHONSAFEPATH", "STRETTO_SAFEPATH"
SENTENCE = "error.txt"  # in the folder: why a rank failed, in its words
TICK = 0.25  # seconds from one look to the next
LINGER = 8.0  # seconds that are left to the ranks when one has told why all end
LATEST = 400  # lines that are kept of what torchrun says
UNTOLD = "ended without a word (killed, or out of memory?)"

JANITOR = """
import os, shutil, signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
told = sys.stdin.read().split()
if "done" not in told:
    for process in told:
        try:
            os.killpg(int(process), signal.SIGKILL)
        except OSError:
            pass
    shutil.rmtree(sys.argv[1], ignore_errors=True)
"""
"""What stands by until its standard input is closed, which also happens when we are killed. It is
told the process group to end, and `done` where nothing is left to do."""


class Training:
    """The training, to which the signals that end us are passed on. It has a process group of its
    own, so that Ctrl-C in a terminal reaches it once, through us: torchrun that is interrupted
    twice forgets its workers."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.ended = 0  # the first signal that came
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "Training":
        for number in ENDS:
            if signal.getsignal(number) != signal.SIG_IGN:  # as `nohup` asks for
                self.before[number] = signal.signal(number, self.end)
        self.before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self.kill)
        return self

    def __exit__(self, *_: object) -> None:
        signal.alarm(0)
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def run(self, words: list[str], janitor: "Janitor") -> int:
        """Run the command to its end. Returns its exit code, or the one for the signal that ended
        it or us."""
        if not self.ended:
            files.say(f"$ {shlex.join(words)}")
            code, said = self._start(words, janitor)
            if not self.ended:
                if code:
                    files.say(*why(janitor.folder, said))
                return code if code >= 0 else 128 - code
        files.say("stretto: interrupted")
        return 128 + self.ended

    def _start(self, words: list[str], janitor: "Janitor") -> tuple[int, list[str]]:
        """The exit code, and what the command itself has said, as torchrun does at length. The
        ranks that it starts write to our stderr, which they are given as their standard input: that
        is all that torchrun hands on as it is."""
        environment = {
            "OMP_NUM_THREADS": "1",  # a process per rank is enough
            **os.environ,
            FOLDER: janitor.folder,
            STDERR: "0",
        }
        if SAFE not in os.environ:  # a `queue.py` of the user's is none for torch to load
            environment |= {SAFE: "1", SAFE_BY_US: "1"}
        said: deque[str] = deque(maxlen=LATEST)
        with subprocess.Popen(
            words, env=environment, process_group=0, stdin=_stderr(), stderr=subprocess.PIPE
        ) as self.process:
            janitor.watch(self.process.pid)
            assert self.process.stderr is not None
            listening = threading.Thread(
                target=_listen, args=(self.process.stderr, said), daemon=True
            )
            listening.start()
            if self.ended:  # while it was started
                self.pass_on()
            code = self._wait(self.process, Path(janitor.folder, SENTENCE))
            if code:
                end_left(FOLDER, janitor.folder)
            listening.join(1)  # not longer: what a rank has started may hold the pipe
        return code, list(said)

    def _wait(self, process: subprocess.Popen[bytes], sentence: Path) -> int:
        """The exit code. A rank that is stopped does not end by torchrun's SIGTERM, which then
        waits for half a minute: not when it is told already why all ends."""
        told = 0.0
        while True:
            try:
                code = process.wait(None if self.ended else TICK)
                return 1 if told and code < 0 else code
            except subprocess.TimeoutExpired:
                if told and time.monotonic() - told > LINGER:
                    self.kill()
                elif not told and sentence.exists():
                    told = time.monotonic()

    def end(self, number: int, _: object) -> None:
        """Note the signal `number`, the first that comes, and pass it on."""
        if not self.ended:
            self.ended = number
            self.pass_on()

    def pass_on(self) -> None:
        """SIGTERM, whichever came: a process that has only begun to load its modules ends on it
        without a traceback too."""
        if self.process is not None:
            self.process.terminate()
            signal.alarm(PATIENCE)

    def kill(self, *_: object) -> None:
        """End a training that has not ended in time, with all its processes."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


class Janitor:
    """A small process that outlives us when we are killed, ends what we have started, and removes
    `folder`, which is ours alone: where ranks leave why they failed. The process is there before
    the folder is, so that no moment leaves one behind. Raises `OSError` where none can be made."""

    def __init__(self) -> None:
        self.folder = str(Path(tempfile.gettempdir(), f"stretto-{secrets.token_hex(8)}"))
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", JANITOR, self.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            os.mkdir(self.folder, 0o700)
        except OSError:  # then it is not ours
            self._dismiss()
            raise

    def watch(self, group: int) -> None:
        """End this process group when we end."""
        self._tell(f"{group}\n")

    def __enter__(self) -> "Janitor":
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self._dismiss()

    def _dismiss(self) -> None:
        """Nothing is left for it to do."""
        self._tell("done\n")
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()
        self.process.wait()

    def _tell(self, words: str) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.write(words.encode())
            self.process.stdin.flush()


def why(folder: str, said: list[str]) -> list[str]:
    """Why a training failed, in lines: what a rank has told, with the signal that torchrun saw;
    else what torchrun says of the first rank that ended, else all that the command has said."""
    text = "\n".join(said)
    first = re.search(r"Root Cause.*?rank +: (\d+).*?exitcode +: (-?\d+)", text, re.DOTALL)
    rank, code = (first[1], int(first[2])) if first else ("", 0)
    ended = f"was ended by {_signal(-code)}" if code < 0 else f"ended with exit code {code}"
    told = Path(folder, SENTENCE)
    if told.is_file():
        sentence = told.read_text(errors="replace")
        exact = f"rank {rank}: its process has {UNTOLD}"
        return f"error: {sentence}".replace(exact, f"rank {rank}: its process {ended}").split("\n")
    return [f"error: rank {rank} {ended}"] if first else said


def _signal(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    return f"{name} (out of memory?)" if number == signal.SIGKILL else name


def _stderr() -> int:
    """Our stderr; nowhere, if it is closed."""
    try:
        return sys.__stderr__.fileno() if sys.__stderr__ else subprocess.DEVNULL
    except (OSError, ValueError):
        return subprocess.DEVNULL


def _listen(stream: IO[bytes], said: "deque[str]") -> None:
    for line in stream:
        said.append(line.decode(errors="replace").rstrip("\n"))
