"""Short messages between processes of one machine: what arrives, and in which order, is what was
sent, however much of it nobody has taken yet; and who is not of the job is not let in."""

import socket
import threading
import time
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from stretto.runtime.transport import P2PLane
from stretto.runtime.transport.gloo import Gloo
from stretto.runtime.transport.nearby import SHORT, connect, this_machine
from tests.support.ranks import run

LANES = [P2PLane(0, 1), P2PLane(1, 0), P2PLane(0, 1)]
SIZES = [1, 7, SHORT, SHORT + 1, SHORT - 1, 3 * SHORT, 100]  # bytes

needs_sockets = pytest.mark.skipif(not this_machine(), reason="no Unix sockets without a name")


def contents(lane: int, turn: int, size: int) -> Tensor:
    """Other bytes in every message."""
    numbers = torch.Generator().manual_seed(1000 * lane + turn)
    return torch.randint(256, (size,), dtype=torch.uint8, generator=numbers)


def exchange(rank: int, nearby: list[bool]) -> tuple[int, int, int]:
    """Sends sixty messages through each lane, more than a socket holds, before the other rank takes
    one; it takes the lanes' last messages first. Returns how many lanes have sockets here, how many
    messages went through gloo, and how many arrived as something else."""
    transport = Gloo(nearby=nearby[rank])
    backend, by_gloo = transport.backend, 0

    class Counting:
        def send(self, *given: Any) -> Any:
            nonlocal by_gloo
            by_gloo += 1
            return backend.send(*given)

        recv = backend.recv

    transport.open(LANES[:2])
    transport.open(LANES[2:])  # as the exchange between steps does
    transport.backend = Counting()
    sizes = SIZES * 8 + [SHORT] * 4
    begun = []
    for lane, (source, _) in enumerate(LANES):
        if source == rank:
            for turn, size in enumerate(sizes):
                leaving = contents(lane, turn, size)
                (pending,) = transport.send(lane, [leaving])
                begun.append((pending, leaving))
                if size <= SHORT and lane in transport.departing:
                    pending.wait()
                    leaving.zero_()  # its memory is free
    wrong, arriving = 0, []
    for lane, (_, target) in enumerate(LANES):
        if target == rank:
            for turn, size in enumerate(sizes):
                buffer = torch.empty(size, dtype=torch.uint8)
                (pending,) = transport.receive(lane, [buffer])
                arriving.append((pending, buffer, contents(lane, turn, size)))
    time.sleep(0.2 * rank)
    for pending, buffer, expected in reversed(arriving):
        pending.wait()
        wrong += not torch.equal(buffer, expected)
    for pending, _ in begun:
        pending.wait()
    transport.flush()
    dist.barrier()
    return len(transport.departing) + len(transport.arriving), by_gloo, wrong


@needs_sockets
def test_what_arrives_is_what_was_sent() -> None:
    long = sum(size > SHORT for size in SIZES) * 8
    assert run(2, exchange, [True, True]).results == [(3, 2 * long, 0), (3, long, 0)]


def test_a_rank_elsewhere_is_reached_by_gloo() -> None:
    many = len(SIZES) * 8 + 4
    assert run(2, exchange, [True, False]).results == [(0, 2 * many, 0), (0, many, 0)]


def lose(rank: int) -> list[str]:
    """Rank 1 goes away; rank 0 waits for it, and then sends to it."""
    transport = Gloo()
    transport.open(LANES)
    if rank:
        for one in transport.departing.values():
            one.end.close()
        for other in transport.arriving.values():
            other.end.close()
        return []
    told = []
    buffer = torch.empty(4)
    (waits,) = transport.receive(1, [buffer])
    time.sleep(0.2)
    for pending in (waits, *transport.send(0, [buffer])):
        with pytest.raises(RuntimeError) as caught:
            pending.wait()
        told.append(str(caught.value))
    return told


@needs_sockets
def test_a_wait_ends_when_the_other_process_is_gone() -> None:
    assert run(2, lose).results[0] == ["Connection closed by peer"] * 2


@needs_sockets
def test_who_does_not_know_the_secret_is_turned_away() -> None:
    cards: dict[str, Tensor] = {}
    told = {kind: threading.Event() for kind in ("card", "status")}

    def send(kind: str) -> Any:
        def begin(_: int, tensor: Tensor) -> Any:
            cards[kind] = tensor
            told[kind].set()
            return lambda: None

        return begin

    def receive(kind: str) -> Any:
        def begin(_: int, tensor: Tensor) -> Any:
            def wait() -> None:
                assert told[kind].wait(20)
                if kind == "card":
                    _intrude(cards["card"])
                tensor.copy_(cards[kind])

            return wait

        return begin

    lanes, found = {5: P2PLane(0, 1)}, []
    own = threading.Thread(
        target=lambda: found.append(
            connect(1, lanes, send("card"), receive("status"), this_machine())
        )
    )
    own.start()
    other = connect(0, lanes, send("status"), receive("card"), this_machine())
    own.join(20)
    (there,) = found
    intruders[0].settimeout(20)
    assert intruders[0].recv(1) == b""
    other.departing[5].send(torch.tensor([1.5]))
    buffer = torch.empty(1)
    there.arriving[5].receive(buffer).wait()
    assert buffer.item() == 1.5
    for end in (*other.sockets(), *there.sockets(), *intruders):
        end.close()


intruders: list[socket.socket] = []


def _intrude(card: Tensor) -> None:
    """Connects as lane 5, before who may, with a secret that is wrong in its last byte."""
    body = bytes(card.tolist())
    machine = body[0]
    secret = body[2 + machine : 2 + machine + body[1 + machine]]
    name = body[3 + machine + len(secret) :][: body[2 + machine + len(secret)]]
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    end.connect(name)
    end.sendall(secret[:-1] + bytes([secret[-1] ^ 1]) + (5).to_bytes(8, "little"))
    intruders.append(end)
