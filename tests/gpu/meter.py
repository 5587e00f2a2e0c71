"""How many bytes of tensors there are: on a GPU torch's allocator counts them, on the CPU whoever
sees every operation of the threads that it watches."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Meter(Protocol):
    """Bytes, now and at most since `begin`."""

    def begin(self) -> int:
        """From here on the most is looked for; the bytes now."""
        ...

    def most(self) -> int:
        """Since then."""
        ...

    def watching(self) -> Any:
        """Around what a thread does."""
        ...


class DeviceMeter:
    """By torch's allocator, once the device has done what it was given."""

    def __init__(self, device: torch.device):
        self.device = device

    def begin(self) -> int:
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)

    def most(self) -> int:
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device)

    @contextmanager
    def watching(self) -> Iterator[None]:
        yield


class HostMeter:
    """By all storages that operations have made, as long as they live."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.now = self.peak = 0

    def begin(self) -> int:
        with self.lock:
            self._forget()
            self.peak = self.now
            return self.now

    def most(self) -> int:
        return self.peak

    @contextmanager
    def watching(self) -> Iterator[None]:
        with _Made(self):
            yield

    def made(self, found: list[Tensor]) -> None:
        with self.lock:
            self._forget()
            for tensor in found:
                storage = tensor.untyped_storage()
                if storage._cdata not in self.alive:
                    self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                    self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)

    def _forget(self) -> None:
        for key in [k for k, (reference, _) in self.alive.items() if reference.expired()]:
            self.now -= self.alive.pop(key)[1]


class _Made(TorchDispatchMode):
    def __init__(self, meter: HostMeter):
        super().__init__()
        self.meter = meter

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        self.meter.made([one for one in tree_leaves(made) if isinstance(one, Tensor)])
        return made


def meter_of(device: torch.device) -> Meter:
    """For the device."""
    return DeviceMeter(device) if device.type == "cuda" else HostMeter()
