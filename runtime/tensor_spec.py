"""What travels between stages: for every edge the shapes and types of its tensors and which of
them carry a gradient. In comes a stage's module and what it is given; out comes what it gives,
found without running it: its forward is walked with tensors that have shapes but no contents, on
stand-ins of its parameters and buffers, so that nothing of the user's module changes."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from stretto.runtime.batch import arguments, mapped
from stretto.runtime.errors import Stopped


class Shape(NamedTuple):
    """One tensor; `gradient` where its gradient comes back."""

    size: tuple[int, ...]
    dtype: torch.dtype
    gradient: bool

    def empty(self, device: torch.device) -> Tensor:
        return torch.empty(self.size, dtype=self.dtype, device=device)

    def __str__(self) -> str:
        return f"{self.size} {_name(self.dtype)}"


Edge = tuple[Shape, ...]


def carrying(edge: Edge) -> Edge:
    """Those whose gradients come back."""
    return tuple(shape for shape in edge if shape.gradient)


def to_json(edge: Edge) -> Any:
    return [[list(shape.size), _name(shape.dtype), shape.gradient] for shape in edge]


def from_json(value: Any) -> Edge:
    return tuple(Shape(tuple(size), getattr(torch, name), bool(g)) for size, name, g in value)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def flat(output: Any, words: str) -> tuple[Tensor, ...]:
    """The tensors of a stage's output. Raises `Stopped` where it is anything else."""
    if isinstance(output, Tensor):
        return (output,)
    if isinstance(output, tuple | list) and all(isinstance(item, Tensor) for item in output):
        return tuple(output)
    kinds = type(output).__name__
    if isinstance(output, tuple | list):
        kinds += " of " + ", ".join(sorted({type(item).__name__ for item in output}))
    raise Stopped(f"{words} gives a {kinds}: a stage gives a tensor or a tuple of tensors")


def output_of(module: nn.Module, x: Any, edge: Edge, device: torch.device, words: str) -> Edge:
    """What the module gives when called with the micro-batch `x` (None where it is no first stage)
    and tensors like `edge`. Where it cannot run on stand-ins it runs once on zeros (a first stage
    on `x`), and its buffers and the random numbers are put back. Raises `Stopped`."""
    walked = _walked(module, x, edge, device, words)
    return _output_of_zeros(module, x, edge, device, words) if walked is None else walked


def _walked(module: nn.Module, x: Any, edge: Edge, device: torch.device, words: str) -> Edge | None:
    """None where it cannot be walked, or fails; torch would log why."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        with _attributes_kept(module), FakeTensorMode(allow_non_fake_inputs=True) as mode:
            state: dict[str, Tensor] = {
                name: mode.from_tensor(tensor)
                for name, tensor in [*module.named_parameters(), *module.named_buffers()]
            }
            args, kwargs = _call(mapped(mode.from_tensor, x), edge, torch.empty, device)
            with torch.enable_grad():
                output = functional_call(module, state, args, kwargs)
            return _edge(flat(output, words))
    except Stopped:
        raise
    except Exception:
        return None
    finally:
        log.disabled = before


def _edge(tensors: Sequence[Tensor]) -> Edge:
    return tuple(Shape(tuple(t.shape), t.dtype, t.requires_grad) for t in tensors)


def _output_of_zeros(
    module: nn.Module, x: Any, edge: Edge, device: torch.device, words: str
) -> Edge:
    args, kwargs = _call(x, edge, torch.zeros, device)
    with _attributes_kept(module), _buffers_kept(module), torch.random.fork_rng():
        try:
            with torch.enable_grad():
                output = module(*args, **kwargs)
        except Exception as error:
            raise Stopped(f"{words} fails on {_told(x, edge)}: {error}") from error
        return _edge(flat(output, words))


def _call(
    x: Any, edge: Edge, make: Any, device: torch.device
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args, kwargs = arguments(x) if x is not None else ((), {})
    given = [
        make(shape.size, dtype=shape.dtype, device=device).requires_grad_(shape.gradient)
        for shape in edge
    ]
    return (*args, *given), kwargs


def _told(x: Any, edge: Edge) -> str:
    what = [] if x is None else [f"an input of {_sizes(x)}"]
    return " and ".join(what + [f"a tensor of {shape}" for shape in edge])


def _sizes(x: Any) -> Any:
    return mapped(lambda t: f"{tuple(t.shape)} {_name(t.dtype)}", x)


@contextmanager
def _attributes_kept(module: nn.Module) -> Iterator[None]:
    """Puts back what a forward assigns to its modules, a cache for instance, and every parameter
    and buffer: `functional_call` leaves its stand-ins in a layer that has two names."""
    tables = [
        table
        for part in module.modules()
        for table in (part.__dict__, part._parameters, part._buffers)
    ]
    before = [dict(table) for table in tables]
    try:
        yield
    finally:
        for table, contents in zip(tables, before, strict=True):
            table.clear()
            table.update(contents)


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, contents in before:
                buffer.copy_(contents)


def check(result: Sequence[Tensor], edge: Edge, learn: bool, words: str) -> None:
    """Raises `Stopped` where a stage gave something else than was agreed: whoever receives it has
    made its buffers for that, and no backend would notice."""
    for tensor, shape in zip(result, edge, strict=False):
        if tensor.shape != shape.size or tensor.dtype != shape.dtype:
            break
        if learn and tensor.requires_grad != shape.gradient:
            has, had = ("no gradient", "one") if shape.gradient else ("a gradient", "none")
            raise Stopped(f"{words} has {has} where {had} was agreed from the first micro-batch")
    else:
        if len(result) == len(edge):
            return
    gave = ", ".join(f"{tuple(tensor.shape)} {_name(tensor.dtype)}" for tensor in result)
    said = ", ".join(map(str, edge))
    raise Stopped(
        f"{words} gives {gave} where {said} was agreed: all micro-batches need the same shapes"
    )
