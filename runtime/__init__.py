"""The runtime: runs plans with PyTorch. Names are loaded when they are used, so that a mistake in
a command line is told before torch is imported."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stretto.runtime.errors import Stopped as Stopped
    from stretto.runtime.executor import Executor as Executor
    from stretto.runtime.local import run_local as run_local
    from stretto.runtime.train.model import Model as Model

_WHERE = {
    "Executor": "stretto.runtime.executor",
    "Model": "stretto.runtime.train.model",
    "Stopped": "stretto.runtime.errors",
    "run_local": "stretto.runtime.local",
}
__all__ = ["Executor", "Model", "Stopped", "run_local"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
