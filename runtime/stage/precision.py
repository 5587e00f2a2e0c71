"""Under `torch.autocast`, which a user may lay around a step, forwards compute in lower precision;
backwards must not: each of their operations has the type that its forward chose, and autocast would
choose again."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

DEVICES = ("cpu", "cuda")


def _any() -> bool:
    return any(map(torch.is_autocast_enabled, DEVICES))


ANY: Callable[[], bool] = getattr(torch._C, "_is_any_autocast_enabled", _any)
"""Whether autocast is on for some device; what torch offers for that is its own affair."""


def autocast_type() -> str:
    """The types that forwards compute in, as text; empty where autocast is off."""
    return ", ".join(
        f"{device} {str(torch.get_autocast_dtype(device)).removeprefix('torch.')}"
        for device in DEVICES
        if torch.is_autocast_enabled(device)
    )


def outside_autocast(backward: Callable[P, R]) -> Callable[P, R]:
    """The backward, run outside any autocast."""

    @wraps(backward)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if not ANY():
            return backward(*args, **kwargs)
        enabled = [device for device in DEVICES if torch.is_autocast_enabled(device)]
        with ExitStack() as around:
            for device in enabled:
                around.enter_context(torch.autocast(device, enabled=False))
            return backward(*args, **kwargs)

    return run
