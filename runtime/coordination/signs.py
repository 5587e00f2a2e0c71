"""Whether this process is at work: a rank that compiles, computes or loads data is slow, and one
that sleeps on a lock stands still, and other ranks must not take the first for the second. In come
the kernel's counts of time and bytes; out comes whether they have grown."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from stretto.runtime.coordination.traffic import bytes_moved

WATCHING = ("stretto-watchdog", "stretto-lookout", "stretto-signals")  # threads that are no work
AT_WORK = 0.25  # of one core: a thread that computes has about 1, one that waits about 0


class SignsOfWork:
    """Looks from one call of `seen` to the next. The threads of watchdogs are left out: looking
    costs time too, and on a loaded machine a thread that was woken waits for a core."""

    def __init__(self, store_port: int) -> None:
        self.store_port = store_port
        self.before, self.moved = _counted(), bytes_moved(store_port)
        self.at = time.monotonic()

    def seen(self, waiting: bool) -> bool:
        """Whether since the last call tensors came or went or, unless the rank is `waiting`, the
        process and its children used a part of a core, or waited for one that others used."""
        now, counted, moved = time.monotonic(), _counted(), bytes_moved(self.store_port)
        used = sum(max(0.0, seconds - self.before.get(t, 0.0)) for t, seconds in counted.items())
        computes = not waiting and used > AT_WORK * (now - self.at)
        moves = moved > self.moved
        self.before, self.moved, self.at = counted, moved, now
        return computes or moves


def _counted() -> dict[str, float]:
    """The seconds of every thread of this process but those that watch, and of its children. Where
    there is no Linux to ask, the seconds of the whole process but this thread."""
    own = Path("/proc/self/task")
    if not own.is_dir():
        return {"process": time.process_time() - time.thread_time()}
    watching = {str(t.native_id) for t in threading.enumerate() if t.name in WATCHING}
    watching.add(str(threading.get_native_id()))
    return {
        str(task): _seconds(task)
        for process in _family(str(os.getpid()))
        for task in _entries(Path("/proc", process, "task"))
        if task.name not in watching
    }


def _family(process: str) -> Iterator[str]:
    """The process and its descendants: compilers and loaders of data work in processes of their
    own."""
    yield process
    for task in _entries(Path("/proc", process, "task")):
        for child in _read(task / "children").split():
            yield from _family(child)


def _seconds(task: Path) -> float:
    """That a thread has run, or has been ready to."""
    counts = _read(task / "schedstat").split()
    return (int(counts[0]) + int(counts[1])) / 1e9 if len(counts) > 1 else 0.0


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # it has ended
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
