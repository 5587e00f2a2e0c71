"""Which loops are kept compiled on this machine, and who compiles them: a process of its own, so
that a search that has just so many seconds goes on with plain ones in the meantime.

The folder of the loops has a file for every set of them that is there whole, written when all of it
was. Whoever compiles holds a lock that the system takes back however the process ends; what a
process that was killed has left is loops that are whole, and no file.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stretto.compiler.atomic import atomic_write
from stretto.compiler.order.kernels.jit import available, loops_folder

SETS = ("whole", "parts")
"""The loops for whole stages, and those for stages that are cut into parts."""

READING = 0.4
"""Seconds of one core, about, to read compiled loops."""

MODULE = "stretto.compiler.order.warm"
"""Compiles the sets that are named to it."""


def kept(name: str) -> bool:
    """Whether this machine has compiled the present loops of the set, and kept them."""
    folder = loops_folder()
    return folder is not None and (folder / f"{name}.whole").is_file()


def keep(name: str) -> None:
    """Say that it has. Raises `OSError`."""
    folder = loops_folder()
    if folder is None:
        raise OSError("there is no folder that is the user's alone")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / f"{name}.whole"):
        pass


@contextmanager
def alone() -> Iterator[bool]:
    """Whether no other process compiles loops; none does while this lasts. Raises `OSError` where
    nothing can be kept."""
    import fcntl

    folder = loops_folder()
    if folder is None:
        raise OSError("there is no folder that is the user's alone")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


@dataclass(frozen=True, slots=True)
class LoopsToCome:
    """A set of loops that another process compiles. `process`: the one that was started for it."""

    name: str
    process: "subprocess.Popen[bytes] | None" = None

    def there(self) -> bool:
        """Whether they have come."""
        return kept(self.name)

    def worth(self, seconds: float) -> bool:
        """Whether they have come, and so many seconds (of one core) are enough to read them and to
        do as much again."""
        return seconds > 2 * READING and self.there()


def compiling(name: str) -> LoopsToCome | None:
    """Have the set compiled by a process that outlives this one, and says nothing; None where
    nothing can be kept. A Ctrl-C does not reach it: its work is for the next command too."""
    folder = loops_folder()
    if not available() or folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", MODULE, name],  # not the modules of the folder it is in
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=Path(folder.anchor),
            start_new_session=True,
        )
    except OSError:
        return None
    return LoopsToCome(name, process)
