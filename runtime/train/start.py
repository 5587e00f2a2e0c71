"""How ranks that were started find each other: the store, the roll call, the process group. In
comes a rank's environment; out comes what it shares with the others. Whatever goes wrong is told
within the timeout, in a sentence that names ranks."""

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore
from torch._C._distributed_c10d import Store as TorchStore

from stretto.compiler.diagnostics.wording import listed
from stretto.runtime.coordination.failure import listen, post_failure
from stretto.runtime.coordination.neighbours import RanksHere
from stretto.runtime.coordination.peers import Peers
from stretto.runtime.coordination.processes import this_process
from stretto.runtime.coordination.store import MissingKeys, Store
from stretto.runtime.errors import PipelineError
from stretto.runtime.last_words import last_words
from stretto.runtime.leave import leave
from stretto.runtime.train.environment import RankEnvironment, different_worlds
from stretto.runtime.whereabouts import of_process

T = TypeVar("T")
LOOK = 0.5  # seconds from one look to the next
FAREWELL = 6.0  # seconds that rank 0 keeps the store for others, when the training has failed
LONGEST_WAIT = 1800.0  # seconds, or ten timeouts: then gloo gives up a message by itself


class RankStart(NamedTuple):
    """The ranks of one start: `peers` with a store in which they meet before there is a group, and
    torch's store below it; `environment` is this rank's."""

    peers: Peers
    torch_store: TorchStore
    environment: RankEnvironment


def connect(environment: RankEnvironment, plan: str, seconds: float) -> RankStart:
    """Reaches the store, or makes it. Raises `PipelineError`."""
    torch_store = PrefixStore(f"stretto/{environment.attempt}", _tcp_store(environment, seconds))
    store = Store(torch_store, "launch/")
    rank, world = environment.rank, environment.world
    near = RanksHere(store, rank, of_process(), last_words(plan, world))
    peers = Peers(rank, world, store, seconds, near)
    listen(peers)
    looking = threading.Thread(target=_look_out, args=(store, rank, seconds), daemon=True)
    looking.name = "stretto-lookout"
    looking.start()
    near.announce()
    if not store.first(f"seat/{rank}"):
        raise PipelineError(
            f"rank {rank} is there already, at {environment.host}:{environment.port}: is RANK "
            f"{rank} for two processes, or does another job use this port?"
        )
    return RankStart(peers, torch_store, environment)


def _look_out(store: Store, rank: int, seconds: float) -> None:
    """Ends a rank that has waited for so long for an answer of the store."""
    while True:
        time.sleep(LOOK)
        if any(time.monotonic() - since > seconds for since in dict(store.calls).values()):
            leave(f"rank {rank} stops at its start: {store.lost()}")


def meet_all(start: RankStart) -> None:
    """Returns when all ranks are there, and can see each other on a machine. Raises
    `PipelineError`."""
    store, world = start.peers.store, start.peers.world
    card = [world, start.environment.job, this_process().host]
    store.post(f"roll/{start.peers.rank}", card)
    keys = [f"roll/{rank}" for rank in range(world)]
    try:
        cards = dict(enumerate(store.wait(keys, start.peers.timeout)))
        absent = []
    except MissingKeys as missing:
        absent = sorted(int(key.rsplit("/", 1)[-1]) for key in missing.keys)
        cards = {r: store.read(f"roll/{r}") for r in range(world) if r not in absent}
    fault = different_worlds({rank: card[0] for rank, card in cards.items()})
    others = sorted(rank for rank, card in cards.items() if card[1] != cards[min(cards)][1])
    if not fault and others:
        fault = f"{listed('rank', others)} and rank {min(cards)} are of different jobs"
    if not fault and absent:
        fault = (
            f"{listed('rank', absent)} did not come within {start.peers.timeout:g} s: "
            "is every process started?"
        )
    if fault:
        raise PipelineError(fault)
    if start.peers.neighbours is not None:
        start.peers.neighbours.look()


def make_group(start: RankStart, device: torch.device) -> None:
    """torch's process group of all ranks. Raises `PipelineError` where they do not reach each
    other within the timeout."""
    longest = max(LONGEST_WAIT, 10 * start.peers.timeout)

    def make() -> None:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore("group", start.torch_store),
            rank=start.peers.rank,
            world_size=start.peers.world,
            timeout=timedelta(seconds=longest),
        )

    name = os.environ.get("GLOO_SOCKET_IFNAME")
    by = f"the interface {name} (GLOO_SOCKET_IFNAME)" if name else "the address of its host name"
    hint = (
        f"rank {start.peers.rank}, on {this_process().host}, and other ranks do not reach each "
        f"other by {by}: set GLOO_SOCKET_IFNAME to the interface of the network between the "
        "machines, on each; `stretto doctor` lists them"
    )
    try:
        within(make, start.peers.timeout, hint)
    except RuntimeError as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise PipelineError(f"{hint} ({first_line})") from error


def farewell(start: RankStart | None, failed: bool) -> None:
    """Before the process ends: the rank that keeps the store waits for those that still read it,
    not for those whose processes have ended."""
    if start is None:
        return
    store, environment = start.peers.store, start.environment
    keeps = environment.rank == 0 and not environment.agent
    seconds = FAREWELL if failed else start.peers.timeout

    def say() -> None:
        with suppress(Exception):  # it is lost already
            store.count(f"ended/{environment.rank}")
            end = time.monotonic() + seconds
            while keeps and _still_read(start.peers) and time.monotonic() < end:
                time.sleep(0.05)

    saying = threading.Thread(target=say, daemon=True)
    saying.start()
    # The store may be silent. At an ordinary end a thread that it answers during the interpreter's
    # teardown aborts the process, so there is patience; a failed rank ends without teardown.
    saying.join(seconds + 1 if keeps or not failed else 1)


def _still_read(peers: Peers) -> bool:
    """Whether another rank may still read the store."""
    near = peers.neighbours
    gone = near.ended() if near is not None else []
    others = (r for r in range(peers.world) if r != peers.rank and r not in gone)
    return not all(peers.store.counted(f"ended/{rank}") for rank in others)


def tell_others(start: RankStart | None, message: str) -> None:
    """Ends the waits of ranks that are still on their way to a group."""
    if start is not None:
        post_failure(start.peers.store, start.peers.rank, message)


def within(make: Callable[[], T], seconds: float, otherwise: str) -> T:
    """What `make` gives. Raises what it raises, and `PipelineError` where it does not return in
    time: torch's own calls do not end where the other side is silent."""
    made, raised = list[T](), list[BaseException]()

    def work() -> None:
        try:
            made.append(make())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    if not made and thread.is_alive():
        raise PipelineError(otherwise)
    return made[0]


def _tcp_store(environment: RankEnvironment, seconds: float) -> TCPStore:
    """torchrun's store, or where there is no torchrun one that rank 0 keeps."""
    keeps = environment.rank == 0 and not environment.agent
    place = f"{environment.host}:{environment.port}"
    who = "torchrun" if environment.agent else "rank 0"

    def make() -> TCPStore:
        return TCPStore(
            environment.host,
            environment.port,
            environment.world,
            is_master=keeps,
            timeout=timedelta(seconds=seconds),
            wait_for_workers=False,
            multi_tenant=True,
        )

    silent = (
        f"what answers rank {environment.rank} at {place} is not the store of {who}: does another "
        "program use this port? Choose another MASTER_PORT"
    )
    nobody = (
        f"rank {environment.rank} reaches nobody at {place} (MASTER_ADDR, MASTER_PORT) within "
        f"{seconds:g} s: is rank 0 started?"
    )
    try:
        return within(make, seconds + 2, silent)
    except PipelineError:
        if _somebody_listens(environment):
            raise
        raise PipelineError(nobody) from None
    except dist.DistError as error:
        if "EADDRINUSE" in str(error):
            raise PipelineError(
                f"rank 0 cannot keep the store at {place}: another program listens at this port, "
                "perhaps another job. Choose another MASTER_PORT"
            ) from None
        if "Ping failed" in str(error):
            raise PipelineError(silent) from None
        if keeps:
            first_line = str(error).splitlines()[0]
            raise PipelineError(f"rank 0 cannot keep the store at {place}: {first_line}") from None
        raise PipelineError(nobody) from None


def _somebody_listens(environment: RankEnvironment) -> bool:
    try:
        socket.create_connection((environment.host, environment.port), timeout=1).close()
    except OSError:
        return False
    return True
