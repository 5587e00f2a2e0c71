"""Two hosts: network namespaces with one cable between them. Links can be slow or cut, and a host
can go. `possible()` says whether this machine can make them."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

NAMES = (f"stretto-{os.getpid()}-a", f"stretto-{os.getpid()}-b")
ADDRESSES = ("10.87.0.1", "10.87.0.2")
ALONE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")  # it sees its own alone
CABLE = (f"st{os.getpid()}a", f"st{os.getpid()}b")  # of at most 15 characters


@cache
def possible() -> str:
    """Why there can be no namespaces here; empty where there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    if not shutil.which("ip") or not shutil.which("tc"):
        return "network namespaces need `ip` and `tc` (iproute2)"
    try:
        with two_hosts():
            return ""
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.decode().strip()}"


@contextmanager
def two_hosts() -> Iterator[None]:
    """Makes them, and takes them away with all that runs in them."""
    _remove()
    try:
        for name in NAMES:
            ip("netns", "add", name)
        ip("link", "add", CABLE[0], "type", "veth", "peer", "name", CABLE[1])
        for name, end, address in zip(NAMES, CABLE, ADDRESSES, strict=True):
            ip("link", "set", end, "netns", name)
            inside(name, "ip", "addr", "add", f"{address}/24", "dev", end)
            inside(name, "ip", "link", "set", end, "up")
            inside(name, "ip", "link", "set", "lo", "up")
        yield
    finally:
        _remove()


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def inside(name: str, *words: str) -> None:
    """Runs a command on the host."""
    ip("netns", "exec", name, *words)


def slow(rate: str) -> None:
    """Lets this much through, each way: `20mbit`."""
    for name, end in zip(NAMES, CABLE, strict=True):
        shape = ["rate", rate, "burst", "32k", "latency", "400ms"]
        inside(name, "tc", "qdisc", "add", "dev", end, "root", "tbf", *shape)


def cut() -> None:
    """Nothing arrives any more, and nobody is told: packets are lost behind the second host."""
    inside(NAMES[1], "ip", "link", "set", CABLE[1], "down")


def mend() -> None:
    """The cable is there again."""
    inside(NAMES[1], "ip", "link", "set", CABLE[1], "up")


def running(name: str) -> list[int]:
    """The processes of the host."""
    done = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
    return [int(word) for word in done.stdout.split()]


def start(
    host: int, words: list[str], folder: Path, said: str, **more: str
) -> subprocess.Popen[bytes]:
    """Starts a command on the host, by number, as a user does who has logged in there."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": CABLE[host], **more}
    with open(folder / said, "wb") as file:
        return subprocess.Popen(
            ["ip", "netns", "exec", NAMES[host], *ALONE, *words],
            cwd=folder,
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def _remove() -> None:
    for name in NAMES:
        for number in running(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
