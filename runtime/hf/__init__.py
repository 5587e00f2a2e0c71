"""Hugging Face models as pipeline stages: in comes a causal language model of a family that is
known, out come modules that compute what it computes, part by part (`split`; `fill` gives them
weights), or a model for `stretto run` (`CausalLM`). Needs the extra `hf`; `transformers` is
imported when it is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stretto.runtime.hf.causal_lm import CausalLM as CausalLM
    from stretto.runtime.hf.stages import fill as fill
    from stretto.runtime.hf.stages import split as split

__all__ = ["CausalLM", "fill", "split"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    where = {"CausalLM": "causal_lm", "fill": "stages", "split": "stages"}
    if name not in where:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{where[name]}"), name)
