"""Every schedule of the library, all its ranks on one device, beside one process that knows nothing
of plans: gradients, losses and outputs, in float64. Then more steps, on a GPU with streams that are
late at random: their gradients are the same bits, or something is read too early."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stretto.compiler import library
from stretto.compiler.driver import compile_file
from stretto.compiler.plan.plan import Plan
from stretto.compiler.program.program import Compute
from stretto.runtime import Executor, run_local
from stretto.runtime.transport import local
from stretto.runtime.transport.local import Local
from tests.gpu.delays import LateCuda
from tests.gpu.stages import maker
from tests.gpu.table import table
from tests.support.training import Modules, batch, built, loss, one_process, spec_of

RANKS, MICROBATCHES = 4, 8
CLOSE = 1e-10  # of the largest gradient of a parameter: float64 rounds at 1e-16
LATE_STEPS = 3
SEARCH = 1.0  # seconds, where an order has to be found


class Compared(NamedTuple):
    """What a schedule's step was beside one process: the largest difference of a number, as a part
    of the largest number of its tensor, and whether later steps gave the same bits."""

    name: str
    ranks: int
    operations: int
    streams: int
    worst: float
    same_bits: bool

    @property
    def fine(self) -> bool:
        """Whether nothing is wrong; NaN is."""
        return self.worst <= CLOSE and self.same_bits


def run(device: torch.device, *names: str) -> tuple[str, bool]:
    """The table of these schedules (by default of all), and whether all are as they should be."""
    found = [compared(name, device) for name in names or library.names()]
    rows = [
        [
            one.name,
            str(one.ranks),
            str(one.operations),
            str(one.streams),
            f"{one.worst:.1e}",
            "yes" if one.same_bits else "NO",
            "" if one.fine else "WRONG",
        ]
        for one in found
    ]
    head = ["schedule", "ranks", "operations", "streams", "difference", "same bits", ""]
    title = f"Parity with one process, all ranks on {device} (difference at most {CLOSE:.0e})"
    return table(title, head, rows), all(one.fine for one in found)


def compared(name: str, device: torch.device) -> Compared:
    """One schedule's."""
    plan = compile_file(name, ranks=RANKS, microbatches=MICROBATCHES, time_limit=SEARCH)
    spec = spec_of(plan)
    x, target = on(device, batch(spec, torch.float64))
    make = maker(spec, device)
    first, *later = steps(plan, device, x, target)
    expected = one_process(spec, x, target, make)
    wanted: dict[Any, Tensor | None] = {}
    for p, line in enumerate(spec.pipelines):
        for s in range(len(line.stages)):
            for k, gradient in enumerate(expected.gradients[p, s]):
                wanted[line.name, s, k] = gradient
        last = len(line.stages) - 1
        if not line.feeds:
            many = range(line.microbatches)
            wanted[line.name, last, "output"] = torch.cat([expected.outputs[p, m] for m in many])
    worst = max(difference(first.get(key), one) for key, one in wanted.items())
    program = next(iter(plan.programs.values()))
    return Compared(
        name,
        spec.ranks,
        sum(isinstance(one, Compute) for rank in program.ranks for one in rank),
        max(1, len(spec.streams)),
        worst,
        all(alike(first, step) for step in later),
    )


Found = dict[Any, Tensor | None]
"""What a step leaves: gradients by pipeline, stage and place, outputs."""


def steps(plan: Plan, device: torch.device, x: Any, target: Any) -> list[Found]:
    """What each step has left: two as a user takes them, then the late ones."""
    spec = spec_of(plan)
    modules = [built(spec, rank, maker(spec, device)) for rank in range(spec.ranks)]
    found = take(plan, device, modules, x, target, 2)
    with late(device):
        return [*found, *take(plan, device, modules, x, target, LATE_STEPS)]


def take(
    plan: Plan, device: torch.device, every: list[Modules], x: Any, target: Any, many: int
) -> list[Found]:
    """So many steps of all ranks. Nothing waits for the device before all are issued."""
    found: list[Found] = [{} for _ in range(many)]
    lasts = {
        (line.stages[-1].rank, line.name): len(line.stages) - 1
        for line in spec_of(plan).pipelines
        if not line.feeds
    }

    def rank(transport: Local) -> None:
        modules = every[transport.rank]
        executor = Executor(plan, modules, loss, transport=transport, timeout=60.0)
        for step in found:
            output = one_step(executor, plan, x, target)
            for (owner, name), last in lasts.items():
                if owner == transport.rank:
                    whole = output[name] if isinstance(output, dict) else output
                    step[name, last, "output"] = whole
            for (name, s), module in modules.items():
                for k, parameter in enumerate(module.parameters()):
                    step[name, s, k] = parameter.grad
                    parameter.grad = None
        executor.close()

    run_local(plan, rank, device)
    return found


def one_step(executor: Executor, plan: Plan, x: Any, target: Any) -> Any:
    """A training step; of a plan that has forwards alone an evaluation."""
    if "train" in plan.programs:
        return executor.step(x, target=target)
    return executor.eval(x)


@contextmanager
def late(device: torch.device) -> Iterator[None]:
    """On a GPU its streams are late, elsewhere nothing is."""
    place: Any = local
    usual = place.accelerator_of
    if device.type == "cuda":
        place.accelerator_of = lambda where: LateCuda(where, seed=7)
    try:
        yield
    finally:
        place.accelerator_of = usual


def difference(ours: Tensor | None, theirs: Tensor | None) -> float:
    """As a part of the largest number; infinite where one of the two is missing."""
    if ours is None or theirs is None:
        return 0.0 if ours is theirs else float("inf")
    most = theirs.detach().abs().max().item()
    return (ours - theirs).detach().abs().max().item() / (most or 1.0)


def alike(one: Found, other: Found) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(
        a is b if a is None or b is None else torch.equal(a, b)
        for a, b in ((one[key], other[key]) for key in one)
    )


def on(device: torch.device, value: Any) -> Any:
    """The tensors on the device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: on(device, one) for key, one in value.items()}
    return tuple(on(device, one) for one in value)
