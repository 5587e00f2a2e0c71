"""Stages that are cut into parts: random chains that hand on tensors in containers of all kinds."""

import os
import time
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stretto.runtime.collectives import all_to_all, stream_group
from stretto.runtime.containers import tensors
from tests.support.parts import CHAIN
from tests.support.training import WIDTH as WIDTH_OF_LAYER
from tests.support.training import Layer

WIDTH = 5
Named = namedtuple("Named", ["first", "rest"])


@dataclass
class Held:
    """A container of the user's."""

    wires: list[Tensor]
    note: str = "kept"


class Step(NamedTuple):
    """What a part does to its wires: a new one out of three, put at `place` (-1: at the end)."""

    linear: int
    one: int
    two: int
    three: int
    place: int
    kind: int


class Chained(nn.Module):
    """A stage of so many parts, all drawn from the seed: each has linear layers of its own, uses
    some of the tensors that it is handed, more than once too, and hands others through."""

    def __init__(self, seed: int, many: int, shared: bool = False):
        super().__init__()
        draw = self.draw = Random(seed)
        self.parts = [(f"p{k}", None if k % 3 else k) for k in range(many)]
        self.linears = nn.ModuleList()
        self.plans: list[list[Step]] = []
        self.shapes: list[int] = []
        wires = 1
        for _ in range(many):
            plan = []
            for _ in range(draw.randint(1, 4)):
                linear = len(self.linears)
                self.linears.append(nn.Linear(WIDTH, WIDTH))
                picked = [draw.randrange(wires) for _ in range(3)]
                place = -1 if draw.random() < 0.6 else draw.randrange(wires)
                wires += place < 0
                if shared and linear and draw.random() < 0.3:
                    linear = draw.randrange(linear)
                one, two, three = picked
                plan.append(Step(linear, one, two, three, place, draw.randrange(5)))
            self.plans.append(plan)
            self.shapes.append(draw.randrange(8))
            wires += self.shapes[-1] == 7
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)

    def part(self, name: str, layer: int | None) -> Any:
        return partial(self.run, self.parts.index((name, layer)))

    def run(self, k: int, *args: Any, **kwargs: Any) -> Any:
        wires = [t for t in tensors((args, kwargs)) if t.is_floating_point()]
        for step in self.plans[k]:
            one, two, three = wires[step.one], wires[step.two], wires[step.three]
            new = self.linears[step.linear](one)
            match step.kind:
                case 0:
                    new = torch.tanh(new) * two + three
                case 1:
                    new = new + two.detach() * three
                case 2:
                    new = new + (two @ three.t()).softmax(-1) @ three
                case 3:
                    new = new + two[:, :1] + three.sum() / 9
                case _:
                    new = torch.cat([new[:1], two[1:]]) - three
            if step.place < 0:
                wires.append(new)
            else:
                wires[step.place] = new
        if k == len(self.plans) - 1:
            return sum(wires[1:], start=wires[0])
        return shaped(self.shapes[k], wires)


def shaped(kind: int, wires: list[Tensor]) -> Any:
    """The tensors in one container or another, with numbers and words beside them."""
    match kind:
        case 0:
            return tuple(wires)
        case 1:
            return [torch.arange(3), *wires]
        case 2:
            return {f"w{k}": wire for k, wire in enumerate(wires)}
        case 3:
            return Named(wires[0], (wires[1:], {"sizes": [2, 3]}))
        case 4:
            return (Held(wires), 7)
        case 5:
            return OrderedDict(all=wires, none=None)
        case 7:
            return (*wires, wires[0])  # twice
        case _:
            return ([wires[0]], *wires[1:], "word")


MOE = ("attention", "dispatch", "mlp", "combine")


def fail() -> None:
    raise ValueError("too large")


FAULTS: dict[str, Callable[[], object]] = {
    "raise": fail,
    "sleep": lambda: time.sleep(60),
    "exit": lambda: os._exit(7),
}


class Experts(nn.Module):
    """A layer with experts on every process of `stream_group`, in four parts. Each token goes to
    one expert, so how many go where depends on the tokens."""

    fault = ""  # in the second `dispatch`

    def __init__(self, seed: int, layers: int = 1, names: tuple[str, ...] = MOE):
        super().__init__()
        self.parts = [(name, layer) for layer in range(layers) for name in names]
        self.runs = dict(zip(names, MOE, strict=True))
        self.dispatched = 0
        self.layers = nn.ModuleList()
        for _ in range(layers):
            norm, mix = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
            gate, expert = nn.Linear(WIDTH, 2), nn.Linear(WIDTH, WIDTH)
            own = {"norm": norm, "mix": mix, "gate": gate, "expert": expert}
            self.layers.append(nn.ModuleDict(own))
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draw) / 2)

    def part(self, name: str, layer: int) -> Any:
        return partial(getattr(self, self.runs[name]), self.layers[layer])

    def attention(self, layer: nn.ModuleDict, x: Tensor) -> Any:
        x = x + torch.tanh(layer["mix"](layer["norm"](x)))
        gate = layer["gate"](x).softmax(-1)
        order = gate.argmax(-1).argsort(stable=True)
        sent = torch.bincount(gate.argmax(-1), minlength=2)
        return x[order], sent, x, gate.amax(-1), order

    def dispatch(self, layer: nn.ModuleDict, tokens: Tensor, sent: Tensor, *rest: Tensor) -> Any:
        self.dispatched += 1
        if self.fault and self.dispatched == 2:
            {"raise": fail, "sleep": lambda: time.sleep(60), "exit": lambda: os._exit(7)}[
                self.fault
            ]()
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=stream_group())
        sizes = received.tolist(), sent.tolist()
        return {"tokens": all_to_all(tokens, *sizes), "sizes": sizes, "rest": rest}

    def mlp(self, layer: nn.ModuleDict, tokens: Tensor, sizes: Any, rest: Any) -> Any:
        return torch.tanh(layer["expert"](tokens)), sizes, rest

    def combine(self, layer: nn.ModuleDict, tokens: Tensor, sizes: Any, rest: Any) -> Tensor:
        x, weight, order = rest
        back = torch.zeros_like(x).index_copy(0, order, all_to_all(tokens, sizes[1], sizes[0]))
        return x + weight[:, None] * back


class CutLayer(Layer):
    """A layer in the four parts of a layer of `support.parts`."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float32, layers: int = 1):
        super().__init__(seed, dtype)
        self.parts = [(name, layer) for layer in range(layers) for name, _ in CHAIN]

    def part(self, name: str, layer: int) -> Any:
        return getattr(self, name)

    def att(self, x: Tensor) -> Any:
        return self.norm(x), x

    def disp(self, normal: Tensor, x: Tensor) -> Any:
        return {"normal": normal.flip(0), "x": x}

    def mlp(self, normal: Tensor, x: Tensor) -> Any:
        return torch.tanh(self.up(normal)), [x]

    def comb(self, middle: Tensor, x: Any) -> Tensor:
        return x[0] + self.down_on(middle.flip(0))

    def down_on(self, middle: Tensor) -> Tensor:
        """Without parameters of this stream: those of `down` are the part `mlp`'s."""
        return middle[:, :WIDTH_OF_LAYER] * middle[:, WIDTH_OF_LAYER:]

    def forward(self, x: Tensor, /, *others: Tensor) -> Tensor:
        for _ in range(len(self.parts) // len(CHAIN)):
            x = self.comb(*self.mlp(**self.disp(*self.att(x))))
        return x


class TwoLayers(CutLayer):
    """The same layer twice: parts of both use its parameters."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float32):
        super().__init__(seed, dtype, layers=2)
