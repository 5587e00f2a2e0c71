"""A board that all ranks of an executor can read and write: a key-value store, its values JSON.
Start-up and errors go over it, never the step. Reading never blocks inside the store, whose one
connection the watchdog uses too."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol


class Store(Protocol):
    """The part of `torch.distributed.Store` that is used."""

    def set(self, key: str, value: str, /) -> None: ...
    def get(self, key: str, /) -> bytes: ...
    def add(self, key: str, amount: int, /) -> int: ...
    def check(self, keys: list[str], /) -> bool: ...
    def delete_key(self, key: str, /) -> bool: ...


class Missing(Exception):
    """The keys that nobody wrote in time."""

    def __init__(self, keys: Sequence[str]):
        super().__init__(", ".join(keys))
        self.keys = tuple(keys)


class Board:
    """Keys of one executor, told from others' by `prefix`. `listen`, if set, is called while
    waiting, and may raise what ends the wait."""

    def __init__(self, store: Store, prefix: str):
        self.store, self.prefix = store, prefix
        self.listen: Callable[[], None] | None = None

    def post(self, key: str, value: Any) -> None:
        self.store.set(self.prefix + key, json.dumps(value))

    def first(self, key: str) -> bool:
        """Whether nobody called this for the key before."""
        return self.count(key) == 1

    def count(self, key: str) -> int:
        """How often this was called for the key, this time included."""
        return self.store.add(f"{self.prefix}{key}/count", 1)

    def read(self, key: str) -> Any:
        """What stands there, None if nothing does."""
        name = self.prefix + key
        return json.loads(self.store.get(name)) if self.store.check([name]) else None

    def wait(self, keys: Sequence[str], seconds: float) -> list[Any]:
        """What stands at each key; waits until all are there. Raises `Missing`."""
        end, pause = time.monotonic() + seconds, 0.0005
        while not self.store.check([self.prefix + key for key in keys]):
            if self.listen is not None:
                self.listen()
            if time.monotonic() > end:
                absent = [key for key in keys if not self.store.check([self.prefix + key])]
                if absent:
                    raise Missing(absent)
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        return [json.loads(self.store.get(self.prefix + key)) for key in keys]

    def forget(self, key: str) -> None:
        self.store.delete_key(self.prefix + key)
