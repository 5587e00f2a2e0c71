"""A backward in two halves as one would write it by hand, for the stages of `weights.py` whose
layers are a linear layer, GELU and layer norm: the operations that autograd calls, one after the
other, without a graph. What this takes any split takes; what a runtime adds is the rest."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

aten = torch.ops.aten


class Layer(NamedTuple):
    """What a forward keeps of a layer: its modules, what the linear layer was given and gave, and
    what the norm was given and measured."""

    linear: nn.Linear
    norm: nn.LayerNorm
    x: Tensor
    hidden: Tensor | None
    active: Tensor
    mean: Tensor
    deviation: Tensor


class Left(NamedTuple):
    """What the first half leaves of a layer: besides the modules, for the linear layer and for the
    norm what it was given and the gradient of what it gave."""

    layer: Layer
    of_norm: Tensor
    of_linear: Tensor


@torch.no_grad()
def forward(module: nn.Module, x: Tensor) -> tuple[list[Layer], Tensor]:
    """What it keeps, and a gradient of the output."""
    kept = []
    layers: Any = module.children()
    for linear, _, norm in layers:
        hidden = torch.addmm(linear.bias, x, linear.weight.t())
        active = aten.gelu(hidden)
        of_norm = norm.normalized_shape, norm.weight, norm.bias, norm.eps
        made, mean, deviation = torch.native_layer_norm(active, *of_norm)
        kept.append(Layer(linear, norm, x, hidden, active, mean, deviation))
        x = made
    return kept, torch.ones_like(x)


@torch.no_grad()
def input_half(kept: list[Layer], gradient: Tensor) -> tuple[Tensor, list[Left]]:
    """The gradient of the input, and what `weight_half` needs."""
    left = []
    while kept:
        layer = kept.pop()
        of_norm = gradient
        gradient, *_ = norm_backward(layer, gradient, [True, False, False])
        gradient = aten.gelu_backward(gradient, layer.hidden)
        left.append(Left(layer._replace(hidden=None), of_norm, gradient))
        gradient = gradient.mm(layer.linear.weight)
    return gradient, left[::-1]


@torch.no_grad()
def weight_half(left: list[Left]) -> None:
    """Adds the gradients of the weights."""
    while left:
        layer, of_norm, of_linear = left.pop()
        _, *found = norm_backward(layer, of_norm, [False, True, True])
        add(layer.norm, *found)
        add(layer.linear, of_linear.t().mm(layer.x), of_linear.sum(0))


def norm_backward(layer: Layer, gradient: Tensor, wanted: list[bool]) -> Any:
    """Those of what it was given, of its weight and of its bias; only the wanted ones."""
    norm, given = layer.norm, (layer.active, layer.norm.normalized_shape)
    measured = layer.mean, layer.deviation
    return aten.native_layer_norm_backward(
        gradient, *given, *measured, norm.weight, norm.bias, wanted
    )


def add(module: Any, of_weight: Tensor, of_bias: Tensor) -> None:
    """In place, as autograd does from the second micro-batch on."""
    for parameter, gradient in ((module.weight, of_weight), (module.bias, of_bias)):
        parameter.grad.add_(gradient)
