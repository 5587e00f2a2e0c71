"""Which keywords a stage's module takes, as its forward's signature says."""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn


class Keywords(NamedTuple):
    """`ordered`: the names of the parameters that can be given by position too, in their order;
    `others`: those by keyword alone; `any`: whether it takes every keyword."""

    ordered: tuple[str, ...]
    others: frozenset[str]
    any: bool

    def of(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the given keywords that the module takes."""
        return {
            name: value
            for name, value in given.items()
            if self.any or name in self.ordered or name in self.others
        }


def keywords_of(module: nn.Module) -> Keywords:
    """What the module's forward takes; a wrapper (of `torch.compile` or DDP) as what it wraps."""
    for name, wrappers in (("_orig_mod", "torch._dynamo"), ("module", "torch.nn.parallel")):
        inner = getattr(module, name, None)
        if isinstance(inner, nn.Module) and type(module).__module__.startswith(wrappers):
            return keywords_of(inner)
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):  # not written in Python
        return Keywords((), frozenset(), False)
    kinds = inspect.Parameter
    return Keywords(
        tuple(p.name for p in parameters if p.kind is kinds.POSITIONAL_OR_KEYWORD),
        frozenset(p.name for p in parameters if p.kind is kinds.KEYWORD_ONLY),
        any(p.kind is kinds.VAR_KEYWORD for p in parameters),
    )
