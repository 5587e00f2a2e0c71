"""Steps of all ranks as CUDA graphs: their gradients beside those of the same step as it is issued
by Python, and what a replay saves."""

import torch

from stretto.compiler.driver import compile_file
from stretto.compiler.plan.plan import Plan
from stretto.runtime import CapturedStep, Executor, PipelineError, capture, run_local
from stretto.runtime.transport.local import Local
from tests.gpu.clock import Spent, medians
from tests.gpu.parity import CLOSE as CLOSE
from tests.gpu.parity import Found, difference, on, take
from tests.gpu.stages import maker
from tests.gpu.table import table
from tests.support.training import Modules, batch, built, loss, spec_of

SCHEDULES = ("one_f_one_b", "zb_v", "dualpipe", "deepseek_v3")
RANKS, MICROBATCHES, TURNS = 4, 8, 7
HEAD = ["schedule", "difference", "issued: host", "device", "replayed: host", "device", ""]


def run(device: torch.device, *_: str) -> tuple[str, bool]:
    """The table, and whether all could be captured and gave the same gradients. On the CPU there
    are no graphs, and so no table."""
    if device.type != "cuda":
        return "CUDA graphs: a GPU has them alone\n", True
    rows, good = [], True
    for name in SCHEDULES:
        try:
            worst, issued, replayed = compared(name, device)
        except PipelineError as error:
            rows.append([name, "", "", "", "", "", f"REFUSED: {error}"])
            good = False
            continue
        times = [f"{1e3 * one:.3f}" for one in (*issued, *replayed)]
        rows.append([name, f"{worst:.1e}", *times, "" if worst <= CLOSE else "WRONG"])
        good &= worst <= CLOSE
    title = (
        "A step of all ranks as one CUDA graph, beside the step that Python issues: milliseconds"
    )
    return table(title, HEAD, rows), good


def compared(name: str, device: torch.device) -> tuple[float, Spent, Spent]:
    """The largest difference of a gradient of a replay on a new batch; the times of a step that is
    issued by all ranks (the most of them), and of a replay."""
    plan = compile_file(name, ranks=RANKS, microbatches=MICROBATCHES)
    spec = spec_of(plan)
    make = maker(spec, device)
    every = [built(spec, rank, make) for rank in range(spec.ranks)]
    x, target = on(device, batch(spec, torch.float64))
    issued = issue(plan, device, every, x, target)
    captured = run_local(plan, lambda t: captured_on(plan, every, t, x, target), device)
    new_x, new_target = on(device, batch(spec, torch.float64, seed=1))
    x.copy_(new_x)
    target.copy_(new_target)
    captured[0].replay()
    ours: Found = {
        (*stage, k): parameter.grad
        for modules in every
        for stage, module in modules.items()
        for k, parameter in enumerate(module.parameters())
    }
    again = [built(spec, rank, make) for rank in range(spec.ranks)]
    (theirs,) = take(plan, device, again, x, target, 1)
    worst = max(difference(one, theirs.get(key)) for key, one in ours.items())
    (replayed,) = medians([captured[0].replay], device, TURNS)
    return worst, issued, replayed


def captured_on(
    plan: Plan, every: list[Modules], transport: Local, x: object, target: object
) -> CapturedStep:
    """What one rank does to be captured."""
    executor = Executor(plan, every[transport.rank], loss, transport=transport, timeout=60.0)
    try:
        return capture(executor, x, target=target)
    finally:
        executor.close()


def issue(
    plan: Plan, device: torch.device, every: list[Modules], x: object, target: object
) -> Spent:
    """The times of a step of all ranks: the longest. Leaves no gradients."""

    def rank(transport: Local) -> Spent:
        modules = every[transport.rank]
        executor = Executor(plan, modules, loss, transport=transport, timeout=60.0)

        def step() -> None:
            transport.gather(None)
            executor.step(x, target=target, return_outputs=False)

        (found,) = medians([step], device, TURNS)
        executor.close()
        for module in modules.values():
            module.zero_grad(set_to_none=True)
        return found

    found = run_local(plan, rank, device)
    return Spent(max(one.host for one in found), max(one.device for one in found))
