"""Which model families can be split, and what their parts are called. A family is here when its
decoder's forward was read: embed, then the layers one after another, then a last norm, each with
nothing between that a stage in the middle would do twice."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from stretto.runtime.errors import PipelineError


class Family(NamedTuple):
    """Names of modules in the decoder: `layers`, a `ModuleList`; `first`, what only the first stage
    has, each with what stands for it elsewhere; `last`, the norm behind the layers."""

    layers: str
    first: dict[str, type[nn.Module]]
    last: str


class Adds(nn.Module):
    """Stands where an embedding is added to what a stage is given: adds nothing. The sum of any
    number and -0.0 is that number, the zeros with their signs included."""

    def forward(self, places: Tensor) -> Tensor:
        """A -0.0 without dimensions, whatever it is asked for."""
        return Tensor([-0.0]).to(places.device).sum()


class Absent(nn.Module):
    """Stands where a stage has nothing to run."""

    def forward(self, *_: Any) -> Any:
        """Raises `PipelineError`: nobody is to call it."""
        raise PipelineError("this stage has no embedding: give it what the stage before it gives")


DECODER = Family("layers", {"embed_tokens": Absent}, "norm")
FAMILIES = {
    "gpt2": Family("h", {"wte": Absent, "wpe": Adds, "drop": nn.Identity}, "ln_f"),
    "llama": DECODER,
    "mistral": DECODER,
    "mixtral": DECODER,
    "qwen2": DECODER,
    "qwen2_moe": DECODER,
    "qwen3": DECODER,
    "qwen3_moe": DECODER,
}
"""By `config.model_type`."""


def family_of(model: nn.Module) -> Family:
    """The model's family. Raises `PipelineError` where it is no causal language model, of a family
    that is not known, or set to do what a stage alone cannot."""
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    name = type(model).__name__
    if kind is None or getattr(model, "base_model_prefix", None) is None:
        raise PipelineError(f"{name} is no model of `transformers`: split it by hand")
    if kind not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise PipelineError(
            f"{name} is of the family {kind}, which `split` does not know (it knows {known}): "
            "split it by hand"
        )
    if not isinstance(getattr(model, "lm_head", None), nn.Module):
        raise PipelineError(f"{name} has no `lm_head`: `split` takes causal language models")
    if getattr(config, "output_router_logits", False):
        raise PipelineError(
            "the balancing loss of the router needs the logits of all layers in one place: set "
            "`config.output_router_logits = False`"
        )
    if getattr(config, "add_cross_attention", False):
        raise PipelineError("a decoder with cross attention needs an encoder: split it by hand")
    return FAMILIES[kind]
