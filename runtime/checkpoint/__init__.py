"""Checkpoints through `torch.distributed.checkpoint`: in come executors with their optimizers, out
comes a folder that holds weights, optimizer states and random states under the model's own names,
independent of the plan: what was saved under one schedule is resumed under another, on another
number of ranks. A checkpoint is there whole or not at all.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stretto.runtime.checkpoint.checkpoints import latest as latest
    from stretto.runtime.checkpoint.checkpoints import load as load
    from stretto.runtime.checkpoint.checkpoints import save as save

__all__ = ["latest", "load", "save"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.checkpoints"), name)
