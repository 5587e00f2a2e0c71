"""Before the interpreter ends no thread of ours is left inside torch's store, or on its way there:
it would abort the process during the teardown, of a training that has succeeded."""

import atexit
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch.distributed as dist

from stretto.runtime.coordination.peers import Peers
from stretto.runtime.coordination.store import Store
from stretto.runtime.coordination.watchdog import Position, Watchdog
from stretto.runtime.train.early import EarlyWatch
from stretto.runtime.train.environment import RankEnvironment
from stretto.runtime.train.start import RankStart, farewell


class Slow:
    """A store that answers when it is told to."""

    def __init__(self) -> None:
        self.store = dist.HashStore()  # type: ignore[attr-defined]
        self.asked, self.answers = threading.Event(), threading.Event()

    def add(self, key: str, amount: int) -> int:
        self._wait()
        return int(self.store.add(key, amount))

    def check(self, keys: list[str]) -> bool:
        self._wait()
        return bool(self.store.check(keys))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def _wait(self) -> None:
        self.asked.set()
        self.answers.wait(30)


def test_the_farewell_of_a_success_waits_for_the_store() -> None:
    slow = Slow()
    peers = Peers(1, 2, Store(cast(Any, slow), ""), 20.0)
    environment = RankEnvironment(1, 2, "localhost", 1, True, 1, 2, "0", "")
    later = threading.Timer(1.5, slow.answers.set)
    later.start()
    farewell(RankStart(peers, slow.store, environment), failed=False)
    assert slow.answers.is_set() and not peers.store.calls
    later.join()


def test_a_watchdog_inside_the_store_is_awaited_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, forgotten = Slow(), list[Any]()
    monkeypatch.setattr(atexit, "unregister", forgotten.append)
    here = Position((0, 0), "waits", (), False)
    watchdog = Watchdog(Peers(0, 2, Store(cast(Any, slow), ""), 20.0), lambda: here, lambda _: None)
    assert slow.asked.wait(20)
    watchdog.stop()
    assert watchdog.thread.is_alive() and not forgotten
    _awaited_at_the_end(watchdog, slow.answers)
    assert forgotten == [watchdog._await_end]


def test_a_lookout_in_its_last_moment_is_awaited_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be the last that holds the store, whose end is in torch too."""
    store, forgotten = Store(dist.HashStore(), ""), list[Any]()  # type: ignore[attr-defined]
    monkeypatch.setattr(atexit, "unregister", forgotten.append)
    monkeypatch.setattr(Store, "port", 1)  # as one by TCP, which may be silent
    looks, last_moment = threading.Event(), threading.Event()

    def position() -> Position:
        if threading.current_thread().name == "stretto-lookout":
            looks.set()
            last_moment.wait(30)
        return Position((0, 0), "waits", (), False)

    watchdog = Watchdog(Peers(0, 2, store, 20.0), position, lambda _: None)
    assert looks.wait(20)
    watchdog.stop()
    assert any(thread.is_alive() for thread in watchdog.threads) and not forgotten
    _awaited_at_the_end(watchdog, last_moment)
    assert forgotten == [watchdog._await_end]


def test_an_early_look_inside_the_store_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of the watchdog: whoever uses it ends as any Python process."""
    registered, forgotten = list[Any](), list[Any]()
    monkeypatch.setattr(atexit, "register", registered.append)
    monkeypatch.setattr(atexit, "unregister", forgotten.append)
    monkeypatch.setattr("stretto.runtime.train.early.LOOK", 0.01)
    looks, answers = threading.Event(), threading.Event()

    def gone() -> list[int]:
        looks.set()
        answers.wait(30)
        return []

    own: Any = SimpleNamespace(say=lambda _: None, end=lambda: None)
    near: Any = SimpleNamespace(own=own, gone=gone, silent=lambda: "")
    store = Store(dist.HashStore(), "")  # type: ignore[attr-defined]
    peers = Peers(0, 2, store, 20.0, near)
    environment = RankEnvironment(0, 2, "localhost", 1, True, 0, 2, "0", "")
    early = EarlyWatch(RankStart(peers, cast(Any, None), environment), store)
    assert looks.wait(20) and early._await_end in registered
    later = threading.Timer(0.2, answers.set)
    later.start()
    early._await_end()
    assert early.looking is not None and not early.looking.is_alive()
    assert early._await_end in forgotten
    early.built()
    later.join()


def _awaited_at_the_end(watchdog: Watchdog, free: threading.Event) -> None:
    """The exit function returns when the threads have ended, soon after they are `free` to."""
    later = threading.Timer(0.2, free.set)
    later.start()
    watchdog._await_end()
    assert not any(thread.is_alive() for thread in watchdog.threads)
    watchdog.stop()
    later.join()


HELD = """
import sys, threading, time, torch
from datetime import timedelta
import torch.distributed as dist

store, groups = dist.HashStore(), {}
def make(rank):
    groups[rank] = dist.ProcessGroupGloo(store, rank, 2, timedelta(seconds=60))
threads = [threading.Thread(target=make, args=(rank,)) for rank in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()

class Slow:
    def __del__(self, sleep=time.sleep):  # in the teardown
        sleep(3)
slow = Slow()

def end():  # with a collective of which gloo's threads cannot let go yet
    sys.setswitchinterval(1000)
    for rank in range(2):
        groups[rank].allreduce([torch.ones(1 << 20)])
    done = time.perf_counter() + 0.5
    while time.perf_counter() < done: pass
"""
OURS = """
from stretto.runtime.transport.gloo import Gloo
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
Gloo()
"""


def _ended(script: str) -> int:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=110)
    return done.returncode


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="there Python lets such a thread be")
def test_torch_alone_aborts_where_gloo_lets_go_of_a_collective_late() -> None:
    assert _ended(HELD + "end()") == -signal.SIGABRT


def test_gloo_lets_go_of_all_collectives_before_the_end() -> None:
    assert _ended(HELD + OURS + "end()") == 0
