"""Times of something that is issued to a device: what the process spends, and how long the device
is at it."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch


class Spent(NamedTuple):
    """Seconds: of processor time until all was issued; and from the first to the last that the
    device did, on the CPU those on the wall."""

    host: float
    device: float


def spent(act: Callable[[], Any], device: torch.device) -> Spent:
    """Of one call, on the current stream. Waits for the device before and after."""
    if device.type != "cuda":
        cpu, wall = time.process_time(), time.perf_counter()
        act()
        return Spent(time.process_time() - cpu, time.perf_counter() - wall)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    cpu = time.process_time()
    begin.record()
    act()
    end.record()
    host = time.process_time() - cpu
    torch.cuda.synchronize(device)
    return Spent(host, begin.elapsed_time(end) / 1000)


def medians(acts: Sequence[Callable[[], Any]], device: torch.device, many: int) -> list[Spent]:
    """Of each, called in turns so many times, after one that is not counted."""
    found: list[list[Spent]] = [[] for _ in acts]
    for turn in range(many + 1):
        for own, act in zip(found, acts, strict=True):
            one = spent(act, device)
            if turn:
                own.append(one)
    return [Spent(*(sorted(one[k] for one in own)[many // 2] for k in range(2))) for own in found]
