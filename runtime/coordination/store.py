"""A key-value store that all ranks of an executor share, its values JSON. Start-up and errors go
over it, never the step. Reads never block inside torch's store: it has one connection per process,
which the watchdog's thread needs too."""

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch.distributed as dist

from stretto.runtime.errors import PipelineError
from stretto.runtime.transport import Transport
from stretto.runtime.transport.choose import require_process_group
from stretto.runtime.transport.local import Hub, Local

OFTEN, SELDOM = 0.002, 0.05  # seconds between two looks of a rank that waits: at first, and later


class KeyValueStore(Protocol):
    """The part of `torch.distributed.Store` that is used."""

    def set(self, key: str, value: str, /) -> None:
        """Writes the value."""
        ...

    def get(self, key: str, /) -> bytes:
        """The value; blocks until the key is there."""
        ...

    def add(self, key: str, amount: int, /) -> int:
        """Adds to a counter, and returns its new value."""
        ...

    def check(self, keys: list[str], /) -> bool:
        """Whether all keys are there."""
        ...

    def compare_set(self, key: str, expected: str, desired: str, /) -> bytes:
        """Writes `desired` where `expected` stands, for "" nothing; what stands there then."""
        ...

    def delete_key(self, key: str, /) -> bool:
        """Whether there was such a key to delete."""
        ...


class MissingKeys(PipelineError):
    """`keys` that nobody wrote in time. The message has `why` instead: keys are our own affair."""

    def __init__(self, keys: Sequence[str], why: str = "another rank does not come"):
        super().__init__(why)
        self.keys = tuple(keys)


class StoreLost(PipelineError):
    """The store does not answer any more: who keeps it, or the machine of that one, is gone."""


class Store:
    """The keys of one executor, told from others' by `prefix`. `on_wait`, if set, is called again
    and again while `wait` waits, and may raise to end the wait; `on_end` before this rank tells why
    it ends; `on_lost` knows more of why the store does not answer: words with a `; ` behind them;
    `keeper_told`: whether rank 0, where it keeps the store, is known to have told why it ended."""

    def __init__(self, store: KeyValueStore, prefix: str):
        self.store, self.prefix = store, prefix
        self.on_wait: Callable[[], None] | None = None
        self.on_end: Callable[[], None] = lambda: None
        self.on_lost: Callable[[], str] = lambda: ""
        self.keeper_told: Callable[[], bool] = lambda: False
        self.calls: dict[int, float] = {}  # by thread, since when it waits for the store's answer

    @property
    def port(self) -> int:
        """Where the ranks reach it by TCP; 0 where it is another kind of store."""
        return int(getattr(self._kept(), "port", 0))

    def lost(self) -> str:
        """What to say where it does not answer."""
        kept: Any = self._kept()
        keeper = "torchrun" if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") else "rank 0"
        if not hasattr(kept, "port"):
            return "the store in which the ranks meet is lost"
        why = f"does not answer: {keeper}, which keeps it, or its machine is gone"
        if keeper == "rank 0" and self.keeper_told():
            why = "is gone with rank 0, which has told why it ended"
        place = f"{kept.host}:{kept.port}"
        return f"{self.on_lost()}the store at {place}, in which the ranks meet, {why}"

    def _kept(self) -> Any:
        found: Any = self.store
        while hasattr(found, "underlying_store"):
            found = found.underlying_store
        return found

    def _reach(self, operation: Callable[..., Any], *given: Any) -> Any:
        """What the operation of torch's store gives. Raises `StoreLost`."""
        thread = threading.get_ident()
        self.calls[thread] = time.monotonic()
        try:
            return operation(*given)
        except NotImplementedError:
            raise
        except RuntimeError:  # `DistError`, or a plain one where a file is gone
            raise StoreLost(self.lost()) from None
        finally:
            self.calls.pop(thread, None)

    def post(self, key: str, value: Any) -> None:
        """Writes a JSON value, over what stood there."""
        self._reach(self.store.set, self.prefix + key, json.dumps(value))

    def first(self, key: str) -> bool:
        """Whether no rank called `first` or `count` for the key before."""
        return self.count(key) == 1

    def post_first(self, key: str, value: Any) -> bool:
        """Writes a JSON value unless one stands there; whether it was written."""
        text = json.dumps(value)
        try:
            found = self._reach(self.store.compare_set, self.prefix + key, "", text)
            return bool(found == text.encode())
        except NotImplementedError:  # a store of files: who counts first writes
            if not self.first(key):
                return False
            self.post(key, value)
            return True

    def count(self, key: str) -> int:
        """How often the ranks together have called this for the key, this call included."""
        return int(self._reach(self.store.add, f"{self.prefix}{key}/count", 1))

    def counted(self, key: str) -> int:
        """How often `count` was called for the key."""
        return int(self._reach(self.store.add, f"{self.prefix}{key}/count", 0))

    def read(self, key: str) -> Any:
        """The value of the key, None if nobody wrote it."""
        name = self.prefix + key
        there = self._reach(self.store.check, [name])
        return json.loads(self._reach(self.store.get, name)) if there else None

    def wait(self, keys: Sequence[str], seconds: float) -> list[Any]:
        """The value of each key, as soon as all are there. Raises `MissingKeys` after so many
        seconds, and what `on_wait` raises."""
        end, pause = time.monotonic() + seconds, 0.0005
        while not self._reach(self.store.check, [self.prefix + key for key in keys]):
            if self.on_wait is not None:
                self.on_wait()
            if time.monotonic() > end:
                absent = [k for k in keys if not self._reach(self.store.check, [self.prefix + k])]
                if absent:
                    raise MissingKeys(absent)
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        return [json.loads(self._reach(self.store.get, self.prefix + key)) for key in keys]

    def await_values(
        self, keys: Sequence[str], lacking: Callable[[Sequence[int]], None] | None = None
    ) -> list[Any]:
        """As `wait`, for as long as it takes: whether those that are to write are at work, the
        watchdog judges. `lacking` is told now and then which of the keys are not there, by their
        places."""
        names, pause, begun = [self.prefix + key for key in keys], 0.0001, time.monotonic()
        while not self._reach(self.store.check, names):
            if self.on_wait is not None:
                self.on_wait()
            if lacking is not None and pause >= OFTEN:
                there = [self._reach(self.store.check, [name]) for name in names]
                if not all(there):  # they may have come meanwhile
                    lacking([k for k, found in enumerate(there) if not found])
            time.sleep(pause)
            pause = min(2 * pause, max(OFTEN, 0.01 * (time.monotonic() - begun)), SELDOM)
        return [json.loads(self._reach(self.store.get, name)) for name in names]

    def forget(self, key: str) -> None:
        """Deletes the key."""
        self._reach(self.store.delete_key, self.prefix + key)


_executors_made: dict[str, int] = {}  # by the members of their group


def store_of(group: dist.ProcessGroup | None = None, transport: Transport | None = None) -> Store:
    """The store of the next executor on this group, or of the threads that share a `Local`
    transport. Keys of executors are told apart by the members of their group and by how many there
    were on it before: all ranks make theirs in the same order. Raises `PipelineError` where there
    is no process group."""
    if isinstance(transport, Local):
        return local_store(transport.hub, transport.next_executor())
    require_process_group()
    members = ",".join(map(str, dist.get_process_group_ranks(group or dist.group.WORLD)))
    _executors_made[members] = _executors_made.get(members, 0) + 1
    store = dist.distributed_c10d._get_default_store()
    return Store(store, f"stretto/{members}/{_executors_made[members]}/")


def local_store(hub: Hub, number: int) -> Store:
    """That of the executors of threads which are the `number`th of their ranks, from 1."""
    return Store(hub.store, f"stretto/{number}/")
