"""Stages that defer their weights' gradients themselves, so that W has something to run besides
what `split_backward` leaves. In comes a user's module, out come its ways to do so, of two kinds:

- a *store*, as DualPipe's users have one, a class `WeightGradStore`: while its `enabled` is true, a
  custom function `put`s functions there instead of adding to `.grad`. It is enabled during I, and W
  runs what I left. It is the module's `weight_grad_store`, or is found by its name where a class of
  the stage is written, or in the package `dualpipe` where that was imported.
- a `dw_builder`, as torch's `PipelineStage` takes one, or a method of that name of the module:
  called after a backward it returns a function that adds the weights' gradients of that backward.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from stretto.runtime.errors import PipelineError

NAME = "WeightGradStore"
BORROWING = threading.RLock()  # a store is one for the process, where ranks may be threads

WeightGradFunction = Callable[[], Any]
"""Adds some weights' gradients to their `.grad`."""


class OwnWeightGradients(NamedTuple):
    """A module's stores and its `dw_builder`; none and None for most modules."""

    stores: tuple[Any, ...] = ()
    builder: Callable[[], WeightGradFunction] | None = None

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Here custom functions add to `.grad` themselves: during B, during W, and where the
        autograd graph decides what waits."""
        with self._borrowed(enabled=False):
            yield

    @contextmanager
    def deferring(self) -> Iterator[list[WeightGradFunction]]:
        """Here what custom functions put into a store is added to the list, in their order."""
        left: list[WeightGradFunction] = []
        with self._borrowed(enabled=True):
            others = [store.cache for store in self.stores]
            for store in self.stores:
                store.cache = []
            try:
                yield left
            finally:
                for store, cache in zip(self.stores, others, strict=True):
                    left += store.cache
                    store.cache = cache

    @contextmanager
    def _borrowed(self, enabled: bool) -> Iterator[None]:
        if not self.stores:
            yield
            return
        with BORROWING:
            before = [store.enabled for store in self.stores]
            for store in self.stores:
                store.enabled = enabled
            try:
                yield
            finally:
                for store, was in zip(self.stores, before, strict=True):
                    store.enabled = was


def own_weight_gradients(module: nn.Module, builder: Any = None) -> OwnWeightGradients:
    """The module's ways to defer; `builder` is the `dw_builder` of its `PipelineStage`, if any.
    Raises `PipelineError` where it names a store or a builder that is none."""
    builder = builder or getattr(module, "dw_builder", None)
    if builder is not None and not callable(builder):
        raise PipelineError(
            f"dw_builder of {type(module).__name__} is a {type(builder).__name__}: it is a "
            "function that returns a function, which adds the weights' gradients"
        )
    named = getattr(module, "weight_grad_store", None)
    if named is not None and not _is_store(named):
        raise PipelineError(
            f"weight_grad_store of {type(module).__name__} is no store: that has `enabled`, a list "
            "`cache`, and `put(function)`, which adds to it, as DualPipe's has"
        )
    stores = [named] if named is not None else _stores(module)
    return OwnWeightGradients(tuple(stores), builder)  # pyright: ignore[reportArgumentType]


def run_left(functions: list[WeightGradFunction]) -> None:
    """Runs what an I left, each once, and lets go of it."""
    functions.reverse()
    with torch.no_grad():
        while functions:
            functions.pop()()


def _stores(module: nn.Module) -> list[Any]:
    places = {cls.__module__ for part in module.modules() for cls in type(part).__mro__}
    places.add("dualpipe.utils")
    found = [vars(sys.modules[place]).get(NAME) for place in sorted(places) if place in sys.modules]
    return list({id(store): store for store in found if _is_store(store)}.values())


def _is_store(value: Any) -> bool:
    return (
        isinstance(getattr(value, "enabled", None), bool)
        and isinstance(getattr(value, "cache", None), list)
        and callable(getattr(value, "put", None))
    )
