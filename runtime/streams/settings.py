"""What torch keeps for each thread and a user may have set around a step: autocast, whether there
are gradients, inference, the default device, hooks on saved tensors. In comes the thread that takes
the step; out comes a way to run something on another thread under the same settings."""

import contextvars
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any, NamedTuple

import torch

AUTOCAST_DEVICES = ("cpu", "cuda")


class ThreadSettings(NamedTuple):
    """The settings of one thread, each as the context managers that set it."""

    around: tuple[Callable[[], AbstractContextManager[Any]], ...]
    variables: contextvars.Context

    @classmethod
    def here(cls) -> "ThreadSettings":
        """Those of the thread that calls."""
        return cls(tuple(_settings()), contextvars.copy_context())

    def run(self, body: Callable[[], None]) -> None:
        """Runs it under these settings, on any thread, once for each `here`."""
        self.variables.copy().run(self._run, body)

    def _run(self, body: Callable[[], None]) -> None:
        with ExitStack() as around:
            for make in self.around:
                around.enter_context(make())
            body()


def _settings() -> Iterator[Callable[[], AbstractContextManager[Any]]]:
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    if inference:
        yield lambda: torch.inference_mode()
    yield lambda: torch.set_grad_enabled(gradients)
    caches = torch.is_autocast_cache_enabled()
    for name in AUTOCAST_DEVICES:
        if torch.is_autocast_enabled(name):
            yield _autocast(name, torch.get_autocast_dtype(name), caches)
    device = torch.get_default_device()
    if device.type != "cpu":
        yield lambda: torch.device(device)
    hooks: Any = torch._C._autograd._top_saved_tensors_default_hooks(True)  # pyright: ignore[reportAttributeAccessIssue]
    if hooks is not None:
        yield lambda: torch.autograd.graph.saved_tensors_hooks(*hooks)


def _autocast(name: str, dtype: torch.dtype, caches: bool) -> Callable[[], Any]:
    return lambda: torch.autocast(name, dtype, cache_enabled=caches)
