"""The peak of memory against what the plan claims, in bytes. A plan claims for every rank how many
activations, received results and outputs it holds at most; what one of each takes is measured on
the stage alone (of an activation the more of what F leaves and what I leaves to W). All ranks are
on one device, so the claims of all are added: at no moment can they hold more, but for what single
operations need while they run, and the sums of gradients where stages have copies."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from stretto.compiler.driver import compile_file
from stretto.compiler.plan.plan import Plan
from stretto.runtime import Executor, run_local
from stretto.runtime.stage.split_backward import input_gradient, weight_gradient
from stretto.runtime.transport.local import Local
from tests.gpu.meter import Meter, meter_of
from tests.gpu.overhead import loss
from tests.gpu.table import table
from tests.support.training import spec_of

SCHEDULES = ("gpipe", "one_f_one_b", "zb_h1", "zb_v", "dualpipe", "v_half")
RANKS, MICROBATCHES = 4, 8
MIB = 1 << 20


class OneStage(NamedTuple):
    """Bytes of one stage: what a forward leaves, its output included; what an input gradient leaves
    to the weights'; an output; what forward and backward need at most beside the first; and the
    gradients of the weights."""

    activation: int
    deferred: int
    output: int
    beside: int
    gradients: int


def run(device: torch.device, *_: str) -> tuple[str, bool]:
    """The table, and whether no plan held more than it claims."""
    width = 1024 if device.type == "cuda" else 64
    found = [(name, *held(name, device, width)) for name in SCHEDULES]
    rows = [
        [name, *(f"{one / MIB:.2f}" for one in (claim, beside, peak)), f"{peak / claim:.0%}",
         "" if peak <= claim + beside else "WRONG"]
        for name, claim, beside, peak in found
    ]  # fmt: skip
    head = ["schedule", "claimed", "beside", "measured", "of the claim", ""]
    title = f"Peak memory of all {RANKS} ranks on {device}, MiB: at most what is claimed, and what "
    title += "operations and\nsums of copies need beside it"
    return table(title, head, rows), all(peak <= c + beside for _, c, beside, peak in found)


def held(name: str, device: torch.device, width: int) -> tuple[int, int, int]:
    """What a schedule claims, what operations may need beside it, and what it took, in bytes."""
    plan = compile_file(name, ranks=RANKS, microbatches=MICROBATCHES, time_limit=1.0)
    rows = 8 * width if device.type == "cuda" else 4 * width  # so that activations are the most
    one = measured(device, width, rows)
    claims, spec = plan.claims["train"], spec_of(plan)
    stage = spec.pipelines[0].stages[0]
    activations = sum(claims.activations) / stage.activation
    activation = max(one.activation, one.deferred) if spec.split_backward else one.activation
    messages = sum(claims.receives) + sum(claims.outputs)
    claim = round(activations * activation + messages * one.output)
    copies = sum(len(reduction.copies) for reduction in plan.programs["train"].reductions)
    # Of each copy: the gradients set aside, another copy's, and their sum.
    beside = RANKS * one.beside + 3 * copies * one.gradients
    return claim, beside, peak(plan, device, width, rows)


class Block(nn.Module):
    """A stage whose activation is several times its output."""

    def __init__(self, width: int):
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x)))


def measured(device: torch.device, width: int, rows: int) -> OneStage:
    """Of the stage by itself."""
    meter = meter_of(device)
    with meter.watching():
        stage = Block(width).to(device)
        for parameter in stage.parameters():
            parameter.grad = torch.zeros_like(parameter)
        gradients = sum(p.numel() * p.element_size() for p in stage.parameters())
        x = torch.randn(rows, width, device=device)
        above = torch.ones_like(x)
        alone(meter, stage, x, above)  # libraries take memory of their own when first used
        left, later, most = alone(meter, stage, x, above)
    return OneStage(left, later, rows * width * x.element_size(), most - left, gradients)


def alone(meter: Meter, stage: nn.Module, x: Tensor, above: Tensor) -> tuple[int, int, int]:
    """Bytes that there are beyond those before: behind a forward, behind an input gradient, and at
    most in a forward and a backward, whole and in two halves."""
    before = meter.begin()
    own = x.clone().requires_grad_()  # as the runtime does with what is the user's
    output: Any = stage(own)
    most = meter.most() - before
    left = meter.begin() - before
    output.backward(above)
    most = max(most, meter.most() - before)
    own = x.clone().requires_grad_()
    output = get_gradient_edge(stage(own))
    found, deferred = input_gradient([output], (above,), [own])
    del output, found
    later = meter.begin() - before
    most = max(most, later)
    del own
    weight_gradient(deferred)
    return left, later, max(most, meter.most() - before)


def peak(plan: Plan, device: torch.device, width: int, rows: int) -> int:
    """What a step takes beyond what there was before it, in bytes."""
    meter, spec = meter_of(device), spec_of(plan)
    with meter.watching():
        x = torch.randn(rows * MICROBATCHES, width, device=device)

    def rank(transport: Local) -> int:
        with meter.watching():
            stages: dict[Any, nn.Module] = {
                (line.name, s): Block(width).to(device)
                for line in spec.pipelines
                for s, stage in enumerate(line.stages)
                if stage.rank == transport.rank
            }
            executor = Executor(plan, stages, loss, transport=transport)
            step = lambda: executor.step(x, target=x, return_outputs=False)  # noqa: E731
            step()
            transport.gather(None)
            before = meter.begin() if transport.rank == 0 else 0
            transport.gather(None)
            step()
            transport.gather(None)
            found = meter.most() - before if transport.rank == 0 else 0
            executor.close()
            return found

    return run_local(plan, rank, device)[0]
