"""What a stage's module gives, found without running it. In comes the module with the specs of what
it is given; out come the specs of its outputs. Its forward is traced with fake tensors, which have
shapes but no contents, on stand-ins of its parameters and buffers, so that nothing of the user's
module changes."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from stretto.runtime.batch import arguments, mapped, signature
from stretto.runtime.errors import PipelineError
from stretto.runtime.stage.wrappers import sharded_parts
from stretto.runtime.tensor_spec import TensorSpecs, flat, specs_of


class ExampleInput(NamedTuple):
    """What a stage is called with: the micro-batch `x` (None where it is no first stage), and
    tensors like `given` from other stages, on `device`."""

    x: Any
    given: TensorSpecs
    device: torch.device

    def call(self, x: Any, make: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments for the module; `make(size, dtype=…, device=…)` gives the other tensors."""
        args, kwargs = arguments(x) if x is not None else ((), {})
        args, kwargs = mapped(Tensor.clone, (args, kwargs))  # the module may write on them
        with torch.enable_grad():
            others = [
                make(spec.size, dtype=spec.dtype, device=self.device)
                .requires_grad_(spec.gradient)
                .clone()
                for spec in self.given
            ]
        return (*args, *others), kwargs

    def __str__(self) -> str:
        what = [] if self.x is None else [f"an input of {signature(self.x)}"]
        return " and ".join(what + [f"a tensor of {spec}" for spec in self.given])


def infer_outputs(module: nn.Module, example: ExampleInput, label: str) -> TensorSpecs:
    """The specs of what the module gives when called with such an input. Where it cannot be traced
    it runs once, on zeros (a first stage on `x`), and its buffers and the random numbers are put
    back. Raises `PipelineError`, naming the stage by `label`, where it fails or gives anything but
    tensors."""
    if sharded_parts(module):  # stand-ins of its parameters would break it
        return _run_sharded(module, example, label)
    traced = _traced(module, example, label)
    return _run_on_zeros(module, example, label) if traced is None else traced


def _traced(module: nn.Module, example: ExampleInput, label: str) -> TensorSpecs | None:
    """None where it cannot be traced, or fails. torch's log of the reason is silenced."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        with _attributes_kept(module), FakeTensorMode(allow_non_fake_inputs=True) as mode:
            state: dict[str, Tensor] = {
                name: mode.from_tensor(tensor)
                for name, tensor in [*module.named_parameters(), *module.named_buffers()]
            }
            args, kwargs = example.call(mapped(mode.from_tensor, example.x), torch.empty)
            with torch.enable_grad():
                output = functional_call(module, state, args, kwargs)
            return specs_of(flat(output, label))
    except PipelineError:
        raise
    except Exception:
        return None
    finally:
        log.disabled = before


def _run_on_zeros(module: nn.Module, example: ExampleInput, label: str) -> TensorSpecs:
    args, kwargs = example.call(example.x, torch.zeros)
    with _attributes_kept(module), _buffers_kept(module), torch.random.fork_rng():
        try:
            with torch.enable_grad():
                output = module(*args, **kwargs)
        except Exception as error:
            raise PipelineError(f"{label} fails on {example}: {error}") from error
        return specs_of(flat(output, label))


def _run_sharded(module: nn.Module, example: ExampleInput, label: str) -> TensorSpecs:
    """Runs it once, on zeros; its weights are sharded again afterwards."""
    args, kwargs = example.call(example.x, torch.zeros)
    with _buffers_kept(module), torch.random.fork_rng(), torch.enable_grad():
        output = module(*args, **kwargs)
    for part in sharded_parts(module):
        part.reshard()
    return specs_of(flat(output, label))


@contextmanager
def _attributes_kept(module: nn.Module) -> Iterator[None]:
    """Puts back what a forward assigns to its modules, a cache for instance, and every parameter
    and buffer: `functional_call` leaves its stand-ins in a layer that has two names."""
    tables: list[dict[str, Any]] = [
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
