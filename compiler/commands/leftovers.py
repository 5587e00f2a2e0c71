"""What is left of a training that has failed: processes that its ranks have started, as loaders of
data, and that nobody ends when a rank is killed. In comes the folder that only this training has,
whose name each of its processes has in its environment."""

import os
import signal
from contextlib import suppress
from pathlib import Path


def end_left(variable: str, folder: str) -> None:
    """Kills every process in whose environment the variable has this folder, but this one. Only on
    Linux, elsewhere nothing happens."""
    mark = f"{variable}={folder}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        number = int(entry.name)
        with suppress(OSError):  # it is another user's, or has ended meanwhile
            if number != os.getpid() and mark in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(number, signal.SIGKILL)
