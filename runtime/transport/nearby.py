"""Short messages between processes of one machine: a Unix socket for each lane, written and read by
whoever sends and waits. gloo hands each message to a thread of its own and back, after a message
the other way that says where it may go; for one that fits into a socket's buffer that is most of
what it costs. Longer messages, other machines and other systems stay with gloo: both ends of a lane
know a tensor's size, so they choose alike.

Nobody waits for a send here: what the socket does not take at once is copied, and a thread sends
the copy. So a channel never has less room than the proof assumes of it.

In come a rank's lanes, and the way to tell another rank a few bytes; out come the ends of those
lanes that have a socket."""

import ctypes
import os
import secrets
import socket
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2s
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from stretto.runtime.transport import P2PLane

SHORT = 1 << 16  # bytes of the longest message that goes this way
CARD = 128  # bytes that a rank tells another to be found
PATIENCE = 10.0  # seconds that a connection may take to say which lane it is

LOST = "Connection closed by peer"

BeginMessage = Callable[[int, Tensor], Callable[[], object]]
"""Begins to send a rank a few bytes, or to receive them from it; what it returns waits for them."""


class Departing:
    """The sending end of a lane."""

    __slots__ = ("backlog", "end", "lock", "thread")

    def __init__(self, end: socket.socket):
        self.end, self.lock = end, threading.Lock()
        self.backlog: deque[bytes] = deque()
        self.thread: threading.Thread | None = None

    def send(self, tensor: Tensor) -> "_Sent":
        """Sends a contiguous tensor, whose memory is free again when this returns."""
        bytes_ = _memory(tensor)
        with self.lock:
            try:
                taken = 0 if self.thread else self.end.send(bytes_, socket.MSG_DONTWAIT)
            except BlockingIOError:
                taken = 0
            except OSError:
                return _BROKEN
            if taken < len(bytes_):
                self.backlog.append(bytes(bytes_)[taken:])
                if self.thread is None:
                    self.thread = threading.Thread(target=self._send_rest, name="messages")
                    self.thread.start()
        return _SENT

    def _send_rest(self) -> None:
        while True:
            with self.lock:
                if not self.backlog:
                    self.thread = None
                    return
                rest = self.backlog.popleft()
            with suppress(OSError):  # a peer that is gone is missed by those who wait for it
                self.end.sendall(rest)

    def flush(self) -> None:
        """Returns when the socket has taken all."""
        thread = self.thread
        if thread is not None:
            thread.join()


class _Sent:
    """A send, which is over; `lost`: the other end was gone."""

    __slots__ = ("lost",)

    def __init__(self, lost: bool):
        self.lost = lost

    def is_completed(self) -> bool:
        return True

    def wait(self) -> None:
        if self.lost:
            raise RuntimeError(LOST)


_SENT, _BROKEN = _Sent(False), _Sent(True)


class Arriving:
    """The receiving end of a lane, and the receives that were posted there."""

    __slots__ = ("end", "lock", "posted")

    def __init__(self, end: socket.socket):
        self.end, self.lock = end, threading.Lock()
        self.posted: deque[_Posted] = deque()

    def receive(self, buffer: Tensor) -> "_Posted":
        """Posts a receive into a contiguous tensor. It is read when somebody waits for it, or for a
        later one."""
        posted = _Posted(self, buffer)
        self.posted.append(posted)
        return posted

    def read(self, awaited: "_Posted") -> None:
        """Reads messages in their order until this one is there. Raises `RuntimeError` where the
        other end is gone."""
        with self.lock:
            while not awaited.over:
                self._fill(_memory(self.posted[0].buffer))
                self.posted.popleft().over = True

    def _fill(self, bytes_: "ctypes.Array[ctypes.c_char]") -> None:
        many = len(bytes_)
        try:
            got = self.end.recv_into(bytes_, many, socket.MSG_WAITALL)
            while 0 < got < many:  # a signal came between
                more = self.end.recv_into(memoryview(bytes_)[got:], 0, socket.MSG_WAITALL)
                got = got + more if more else 0
        except OSError:
            got = 0
        if not got:
            raise RuntimeError(LOST)


class _Posted:
    """A receive, and the memory that it is for."""

    __slots__ = ("buffer", "lane", "over")

    def __init__(self, lane: Arriving, buffer: Tensor):
        self.lane, self.buffer, self.over = lane, buffer, False

    def is_completed(self) -> bool:
        return self.over

    def wait(self) -> None:
        if not self.over:
            self.lane.read(self)


_ARRAYS: dict[int, type["ctypes.Array[ctypes.c_char]"]] = {}


def _memory(tensor: Tensor) -> "ctypes.Array[ctypes.c_char]":
    """The bytes of a contiguous tensor, as sockets take them. The tensor must be kept meanwhile."""
    many = tensor.nbytes
    kind = _ARRAYS.get(many)
    if kind is None:
        kind = _ARRAYS[many] = ctypes.c_char * many
    return kind.from_address(tensor.data_ptr())


# How two ranks find each other -------------------------------------------------------------------


class NearbyLanes(NamedTuple):
    """Those lanes of a rank that have a socket, by their numbers."""

    departing: dict[int, Departing]
    arriving: dict[int, Arriving]

    def sockets(self) -> list[socket.socket]:
        """All of them."""
        return [lane.end for lanes in self for lane in lanes.values()]


class _Card(NamedTuple):
    """Where a rank is found: which machine it is on (and for which user), a secret that who
    connects must know, and the name of its socket; `machine` is empty where it has none."""

    machine: bytes = b""
    secret: bytes = b""
    name: bytes = b""

    def packed(self) -> Tensor:
        body = b"".join(bytes([len(part)]) + part for part in self)
        return torch.frombuffer(bytearray(body.ljust(CARD, b"\0")), dtype=torch.uint8)

    @classmethod
    def unpacked(cls, told: Tensor) -> "_Card":
        body, parts = bytes(told.tolist()), []
        for _ in cls._fields:
            parts.append(body[1 : 1 + body[0]])
            body = body[1 + body[0] :]
        return cls(*parts)


def connect(
    rank: int,
    lanes: Mapping[int, P2PLane],
    send: BeginMessage,
    receive: BeginMessage,
    machine: bytes,
) -> NearbyLanes:
    """Opens the lanes, by their numbers, to and from ranks on the same `machine`. Those ranks call
    it with the same lanes at the same time. Raises what `send` and `receive` do."""
    sources = _by_peer((n, lane.source) for n, lane in lanes.items() if lane.target == rank)
    targets = _by_peer((n, lane.target) for n, lane in lanes.items() if lane.source == rank)
    sources.pop(rank, None)
    targets.pop(rank, None)
    found = NearbyLanes({}, {})
    door, own = _door(machine, sum(map(len, sources.values())))
    card = own.packed()
    pending = [send(peer, card) for peer in sources]
    for peer, numbers in targets.items():
        told = torch.empty(CARD, dtype=torch.uint8)
        receive(peer, told)()
        ends = _call(_Card.unpacked(told), own.machine, numbers)
        found.departing.update({n: Departing(end) for n, end in ends.items()})
        pending.append(send(peer, torch.tensor([bool(ends)], dtype=torch.uint8)))
    expected: set[int] = set()
    for peer, numbers in sources.items():
        told = torch.empty(1, dtype=torch.uint8)
        receive(peer, told)()
        expected.update(numbers if told.item() else ())
    if door is not None:
        ends = _answer(door, own.secret, expected)
        found.arriving.update({n: Arriving(end) for n, end in ends.items()})
        door.close()
    for wait in pending:
        wait()
    return found


def this_machine() -> bytes:
    """Tells apart machines, containers that cannot reach each other's sockets, and users; empty
    where there are no sockets of this kind (they are Linux's)."""
    if not sys.platform.startswith("linux"):
        return b""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        network = os.stat("/proc/self/ns/net")
    except OSError:
        return b""
    told = f"{boot} {network.st_dev} {network.st_ino} {os.geteuid()} {sys.byteorder}"
    return blake2s(told.encode()).digest()


def _by_peer(pairs: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for number, peer in pairs:
        found.setdefault(peer, []).append(number)
    return found


def _door(machine: bytes, many: int) -> tuple[socket.socket | None, _Card]:
    """A socket of a name that the system chooses, where so many others can call."""
    if not machine:
        return None, _Card()
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        door.bind(b"")
        door.listen(many + 16)
    except OSError:
        door.close()
        return None, _Card()
    return door, _Card(machine, secrets.token_bytes(16), door.getsockname())


def _call(other: _Card, machine: bytes, numbers: Sequence[int]) -> dict[int, socket.socket]:
    """A connection for each lane; none where not all can be had."""
    ends: dict[int, socket.socket] = {}
    if not machine or other.machine != machine:
        return ends
    try:
        for number in numbers:
            ends[number] = end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            end.settimeout(PATIENCE)
            end.connect(other.name)
            if _user(end) != os.geteuid():
                raise PermissionError
            end.sendall(other.secret + number.to_bytes(8, "little"))
            end.settimeout(None)
    except OSError:
        for end in ends.values():
            end.close()
        ends.clear()
    return ends


def _answer(door: socket.socket, secret: bytes, expected: set[int]) -> dict[int, socket.socket]:
    """The connections of these lanes, which have been made already. Who does not know the secret
    is turned away."""
    ends: dict[int, socket.socket] = {}
    door.settimeout(PATIENCE)
    while expected - ends.keys():
        end, _ = door.accept()
        end.settimeout(PATIENCE)
        with suppress(OSError):
            told = end.recv(len(secret) + 8, socket.MSG_WAITALL)
            number = int.from_bytes(told[len(secret) :], "little")
            known = secrets.compare_digest(told[: len(secret)], secret)
            if known and number in expected and _user(end) == os.geteuid():
                end.settimeout(None)
                ends[number] = end
                continue
        end.close()
    return ends


def _user(end: socket.socket) -> int:
    """Who is at the other end."""
    form = struct.Struct("3i")  # process, user, group
    told = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, form.size)
    return int(form.unpack(told)[1])
