"""The threads in which gloo runs collectives, when the process ends. Each lets go of a
collective's tensors a moment after whoever waited for it went on; for that torch asks for the
interpreter's lock, and during the interpreter's teardown that aborts the process. So before it
begins, those threads are given the lock until they sleep. Where there are none, nothing waits."""

import atexit
import os
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

WORKER = "pt_gloo_runloop"  # torch's name for such a thread
LOOK = 0.02  # seconds; a thread that waits for the lock wakes more often
PATIENCE = 30.0  # seconds; a collective that is under way may never end


@cache
def settle_at_exit() -> None:
    """Lets `settle` be called at the end of the process, once."""
    atexit.register(settle)


def settle() -> None:
    """Returns when these threads sleep, and have done so for a while in which the interpreter's
    lock was free; after 30 s in any case. Only on Linux."""
    end, before = time.monotonic() + PATIENCE, None
    while (now := _workers()) and time.monotonic() < end:
        if now == before and all(state.startswith("S") for state, *_ in now.values()):
            return
        before = now
        time.sleep(LOOK)  # without the lock


def _workers() -> dict[str, list[str]]:
    """By thread its state, and how often it has gone to sleep and was interrupted."""
    found = {}
    with suppress(OSError):
        for thread in os.listdir("/proc/self/task"):
            with suppress(OSError):  # it has ended meanwhile
                told = Path(f"/proc/self/task/{thread}/status").read_text()
                fields = dict(line.split(":\t", 1) for line in told.splitlines() if ":\t" in line)
                if fields["Name"] == WORKER:
                    switches = ("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")
                    found[thread] = [fields["State"], *(fields[name] for name in switches)]
    return found
