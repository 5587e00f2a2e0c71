"""What can be wrong with an environment before a run is started in it. In come the variables of the
environment and the machine; out come findings, each with what to do. A check is a generator in the
table `CHECKS`; what needs torch is asked of the runtime, and only then loaded."""

import os
import re
import resource
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from stretto.compiler.order.kernels.own_folder import shared

State = Literal["ok", "warning", "problem"]
START = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
LEAST_FILES, FEW_FILES = 256, 1024  # that a process may have open: two and more per other rank
LEAST_SHARED = 256 << 20  # bytes of /dev/shm; containers have 64 MiB unless told otherwise
SLACK = 24 * 3600  # seconds that a clock may be behind the time our own files were written


class Sighting(NamedTuple):
    """Of `check`: what was `found`, and where that is not `ok` what to do."""

    check: str
    state: State
    found: str
    advice: str = ""


Environment = Mapping[str, str]


def examine(environment: Environment) -> list[Sighting]:
    """All findings, in the order of the table."""
    return [finding for check in CHECKS for finding in check(environment)]


def _versions(_: Environment) -> Iterator[Sighting]:
    """Those that the distribution's metadata promises to work with."""
    for requirement in metadata.requires("stretto") or ():
        name, wanted, extra = _requirement(requirement)
        if extra not in ("", "run", "solve"):
            continue
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            if not extra:
                yield Sighting(name, "problem", "not installed", f"pip install '{name}{wanted}'")
            elif extra == "run":
                advice = f"to train: pip install 'stretto[{extra}]'"
                yield Sighting(name, "warning", "not installed", advice)
            continue
        if all(_fits(version, rule) for rule in wanted.split(",") if rule):
            yield Sighting(name, "ok", version)
        else:
            found = f"{version}, and stretto is for {wanted}"
            yield Sighting(name, "problem", found, f"pip install '{name}{wanted}'")


def _requirement(text: str) -> tuple[str, str, str]:
    """Name, versions and extra of a line of the metadata."""
    first, _, marker = text.partition(";")
    name = re.match(r"[\w.-]+", first.strip())
    extra = re.search(r"extra *== *['\"]([\w-]+)", marker)
    found = name[0] if name else first
    return found, first.strip()[len(found) :].replace(" ", ""), extra[1] if extra else ""


def _fits(version: str, rule: str) -> bool:
    """Whether `2.6.0+cpu` is within `>=2.5`; rules of other forms are left to pip."""
    match = re.fullmatch(r"(>=|<=|<|>)([\d.]+)", rule)
    if match is None:
        return True
    have, want = _numbers(version), _numbers(match[2])
    length = max(len(have), len(want))
    have, want = [v + [0] * (length - len(v)) for v in (have, want)]
    return {">=": have >= want, "<=": have <= want, "<": have < want, ">": have > want}[match[1]]


def _numbers(version: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", version.split("+")[0])[:4]]


def _torch(environment: Environment) -> Iterator[Sighting]:
    if find_spec("torch") is None:
        return
    try:
        found = import_module("stretto.runtime.surroundings").examine(environment)
    except Exception as error:  # a broken installation raises anything
        told = f"cannot be loaded: {type(error).__name__}: {error}"
        yield Sighting("torch", "problem", told, "install it anew, for this Python")
        return
    for check, state, what, advice in found:
        yield Sighting(check, state, what, advice)


def _start(environment: Environment) -> Iterator[Sighting]:
    """The variables by which a rank knows which it is."""
    there = [name for name in START if environment.get(name)]
    lacking = [name for name in START if name not in there]
    if there and lacking and there != ["MASTER_ADDR"]:
        yield Sighting(
            "ranks",
            "problem",
            f"{' and '.join(there)} set, {' and '.join(lacking)} not",
            "set all four for every rank, or none and start with torchrun, which does",
        )
        return
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT", "OMP_NUM_THREADS"):
        if environment.get(name) and not environment[name].isdecimal():
            found = f"{name} is `{environment[name]}`"
            yield Sighting("ranks", "problem", found, "give a whole number")
    yield Sighting("ranks", "ok", f"rank {environment['RANK']}" if len(there) == 4 else "none set")


def _name(_: Environment) -> Iterator[Sighting]:
    """gloo listens at the address of the machine's own name, unless an interface is named."""
    name = socket.gethostname()
    try:
        addresses = sorted({str(found[4][0]) for found in socket.getaddrinfo(name, None)})
    except OSError as error:
        advice = "add it to /etc/hosts, or set GLOO_SOCKET_IFNAME to an interface"
        yield Sighting("host name", "problem", f"{name} has no address: {error}", advice)
        return
    found = f"{name} is {', '.join(addresses)}"
    if all(address.startswith("127.") or address == "::1" for address in addresses):
        advice = "with several machines, set GLOO_SOCKET_IFNAME to the interface between them"
        yield Sighting("host name", "warning", f"{found}: this machine alone", advice)
    else:
        yield Sighting("host name", "ok", found)


def _interfaces(environment: Environment) -> Iterator[Sighting]:
    known = [name for _, name in socket.if_nameindex()]
    listed = ", ".join(known)
    yield Sighting("interfaces", "ok" if known else "problem", listed or "none", "")
    for variable in INTERFACES:
        named = environment.get(variable, "")
        wanted = [part.lstrip("=") for part in named.lstrip("^").split(",") if part]
        if not wanted:
            continue
        if variable.startswith("NCCL"):  # there a name stands for all that begin with it
            absent = [n for n in wanted if not any(k.startswith(n) for k in known)]
        else:
            absent = [n for n in wanted if n not in known]
        if absent and not named.startswith("^"):
            advice = f"choose among {listed}"
            yield Sighting(variable, "problem", f"there is no {' and no '.join(absent)}", advice)
        else:
            yield Sighting(variable, "ok", named)


def _ports(environment: Environment) -> Iterator[Sighting]:
    """Whether the store of a run can be kept here."""
    port = environment.get("MASTER_PORT", "")
    number = int(port) if port.isdecimal() and int(port) < 1 << 16 else 0
    mine = environment.get("RANK", "0") == "0" and not environment.get("TORCHELASTIC_RUN_ID")
    try:
        with socket.socket() as listening:
            listening.bind(("", number if mine else 0))
        yield Sighting("ports", "ok", f"{number} is free" if number and mine else "can be opened")
    except OSError as error:
        what = f"port {number} (MASTER_PORT)" if number else "a port"
        advice = "choose another MASTER_PORT: `torchrun --standalone` finds one by itself"
        yield Sighting("ports", "problem", f"{what} cannot be opened: {error.strerror}", advice)


def _shared_memory(_: Environment) -> Iterator[Sighting]:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return
    room = os.statvfs(folder)
    free = room.f_bavail * room.f_frsize
    found = f"{free >> 20} MiB free in /dev/shm"
    if free < LEAST_SHARED:
        advice = "loaders of data and NCCL need more: `docker run --shm-size=8g`, or --ipc=host"
        yield Sighting("shared memory", "warning", found, advice)
    else:
        yield Sighting("shared memory", "ok", found)


def _threads(environment: Environment) -> Iterator[Sighting]:
    given, cores = environment.get("OMP_NUM_THREADS", ""), os.cpu_count() or 1
    if not given.isdecimal():
        yield Sighting("threads", "ok", f"{cores} cores, a rank computes with one thread")
    elif int(given) > cores:
        found = f"OMP_NUM_THREADS is {given}, and there are {cores} cores"
        yield Sighting("threads", "warning", found, "cores divided by the ranks of this machine")
    else:
        yield Sighting("threads", "ok", f"{cores} cores, {given} for each rank (OMP_NUM_THREADS)")


def _open_files(_: Environment) -> Iterator[Sighting]:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    state: State = "ok"
    if most != resource.RLIM_INFINITY and most < FEW_FILES:
        state = "problem" if most < LEAST_FILES else "warning"
    found = "unlimited" if most == resource.RLIM_INFINITY else str(most)
    advice = "a rank has connections to all others: `ulimit -n 65536`"
    yield Sighting("open files", state, found, "" if state == "ok" else advice)


def _folders(environment: Environment) -> Iterator[Sighting]:
    """Where something is kept between runs, or while one runs."""
    try:
        with tempfile.NamedTemporaryFile(prefix="stretto-") as file:
            file.write(b"\0" * 4096)
            file.flush()
        yield Sighting("temporary files", "ok", tempfile.gettempdir())
    except OSError as error:
        advice = "set TMPDIR to a folder that can be written"
        yield Sighting("temporary files", "problem", str(error.strerror or error), advice)
    cache = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stretto"
    yield _cache("cache of orders", cache / "orders")
    if find_spec("numba") is not None:
        yield _cache("compiled loops", cache / "loops", run=True)


def _cache(what: str, folder: Path, run: bool = False) -> Sighting:
    """Whether something can be kept there. What will be `run` is not, where others may write."""
    there = next(p for p in (folder, *folder.parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        advice = "every search begins anew: set XDG_CACHE_HOME to a folder that can be written"
        return Sighting(what, "warning", f"{folder} cannot be written", advice)
    if run and (others := shared(folder)) is not None:
        advice = f"nothing is kept there: `chmod go-w {others}`, or set XDG_CACHE_HOME"
        return Sighting(what, "warning", f"others may write into {others}", advice)
    return Sighting(what, "ok", str(folder))


def _clock(_: Environment) -> Iterator[Sighting]:
    written = Path(__file__).stat().st_mtime
    told = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    if time.time() < written - SLACK:
        advice = "set the clock (NTP): times in traces and certificates of servers depend on it"
        yield Sighting("clock", "problem", f"{told}, before stretto was installed", advice)
    else:
        yield Sighting("clock", "ok", told)


def _python(_: Environment) -> Iterator[Sighting]:
    least = str(metadata.metadata("stretto")["Requires-Python"] or "")
    version = ".".join(map(str, sys.version_info[:3]))
    good = all(_fits(version, rule) for rule in least.split(",") if rule)
    found = version if good else f"{version}, and stretto is for {least}"
    yield Sighting("Python", "ok" if good else "problem", found, "" if good else "use a newer one")


CHECKS: tuple[Callable[[Environment], Iterator[Sighting]], ...] = (
    _python,
    _versions,
    _torch,
    _start,
    _name,
    _interfaces,
    _ports,
    _shared_memory,
    _threads,
    _open_files,
    _folders,
    _clock,
)
