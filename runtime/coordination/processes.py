"""Which process a rank is, so that other ranks on its machine can see whether it still runs. A rank
shows its `Process`; whoever reads it asks the kernel."""

import os
import platform
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """A process among all: the `machine` (this boot of it, and the numbering of its processes,
    which a container has for itself), its number there, and when it was `begun` (clock ticks since
    the boot): numbers are used again."""

    host: str
    machine: str
    number: int
    begun: str


def this_process() -> Process:
    """The one that calls."""
    return Process(platform.node(), _machine(), os.getpid(), _stat(os.getpid())[1])


def state(process: Process) -> str:
    """`running`, `stopped` or `gone`; empty where it is on another machine, or cannot be seen."""
    if not process.machine or process.machine != _machine():
        return ""
    letter, begun = _stat(process.number)
    if not letter or begun != process.begun or letter in "ZX":
        return "gone"
    return "stopped" if letter in "Tt" else "running"


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _stat(number: int) -> tuple[str, str]:
    """The letter of the process's state and when it began; both empty where there is none."""
    try:
        text = Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return "", ""
    fields = text.rpartition(")")[2].split()
    return fields[0], fields[19]
