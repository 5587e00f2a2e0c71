"""Small plans, small models, and one step of them: as ranks on threads, and as one process that
knows nothing of plans, ranks or orders."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stretto.compiler.bounds.bound import bound
from stretto.compiler.driver import compile_file
from stretto.compiler.order.written import written
from stretto.compiler.plan.plan import Plan, assemble
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Spec
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicate, forwards
from stretto.compiler.program.program import Claims, Program, ProgramName
from stretto.runtime import Executor, run_local
from stretto.runtime.transport.local import Local

torch.set_num_threads(1)  # sums over rows are cut by threads: as many as a rank has
WIDTH, ROWS = 6, 2  # rows of a micro-batch
Modules = dict[tuple[str, int], nn.Module]


def plan_of(spec: Spec) -> Plan:
    """The plan of a Spec whose order is written."""
    problem = expand(spec)
    order = written(problem)
    programs: dict[ProgramName, Program] = {"train": communicate(order), "eval": forwards(order)}
    claimed: dict[ProgramName, Claims] = {name: claims(made) for name, made in programs.items()}
    return assemble(programs, claimed, bound(problem), "written")


@cache
def compiled(name: str, **parameters: int) -> Plan:
    """A schedule of the library."""
    return compile_file(name, parameters=parameters)


def spec_of(plan: Plan) -> Spec:
    return next(iter(plan.programs.values())).spec


class Layer(nn.Module):
    """Takes its input and whatever feeds it; a different one for every seed."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float32):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draw) / 3)
        self.to(dtype)

    def forward(self, x: Tensor, /, *others: Tensor) -> Tensor:
        for k, other in enumerate(others, 2):
            x = x + other / k
        return x + self.down(torch.tanh(self.up(self.norm(x))))


def seed_of(spec: Spec, pipeline: int, stage: int) -> int:
    """The same for all copies of a stage."""
    copied = spec.pipelines[pipeline].replicates
    return 100 * (pipeline if copied < 0 else copied) + stage


def built(spec: Spec, rank: int, make: Callable[[int], nn.Module] = Layer) -> Modules:
    return {
        (pipeline.name, s): make(seed_of(spec, p, s))
        for p, pipeline in enumerate(spec.pipelines)
        for s, stage in enumerate(pipeline.stages)
        if stage.rank == rank
    }


def batch(spec: Spec, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Any, Any]:
    """x and target: tensors, or where there are several models dicts of them by pipeline."""
    draw = torch.Generator().manual_seed(seed)
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for p, pipeline in enumerate(spec.pipelines):
        if pipeline.replicates < 0:
            rows = ROWS * sum(
                q.microbatches for k, q in enumerate(spec.pipelines) if p in (k, q.replicates)
            )
            x = torch.randn(rows, WIDTH, generator=draw).to(dtype)
            found[pipeline.name] = x, torch.randn(rows, WIDTH, generator=draw).to(dtype)
    if len(found) == 1:
        return next(iter(found.values()))
    return {n: x for n, (x, _) in found.items()}, {n: y for n, (_, y) in found.items()}


def loss(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def there(gradient: Tensor | None) -> Tensor:
    """The gradient, which must be there."""
    assert gradient is not None
    return gradient


class Trained(NamedTuple):
    """By rank: the modules, what `step` returned, the losses by pipeline."""

    modules: list[Modules]
    outputs: list[Any]
    losses: list[dict[str, list[Tensor]]]

    def gradients(self, pipeline: str, stage: int) -> list[Tensor | None]:
        (module,) = [m[pipeline, stage] for m in self.modules if (pipeline, stage) in m]
        return [p.grad for p in module.parameters()]


def trained(
    plan: Plan,
    x: Any,
    target: Any,
    make: Callable[[int], nn.Module] = Layer,
    steps: int = 1,
    loss_fn: Any = loss,
    before: Callable[[Executor], None] = lambda _: None,
    **options: Any,
) -> Trained:
    """Steps on the same batch, all ranks as threads of this process."""
    spec = spec_of(plan)
    modules = [built(spec, rank, make) for rank in range(spec.ranks)]

    def rank(transport: Local) -> tuple[Any, Any]:
        options_ = {"timeout": 20.0, **options}
        executor = Executor(plan, modules[transport.rank], loss_fn, transport=transport, **options_)
        before(executor)
        output, found = None, dict[str, list[Tensor]]()
        for _ in range(steps):
            output = executor.step(x, target=target, losses=found)
        executor.close()
        return output, found

    results = run_local(plan, rank)
    return Trained(modules, [r[0] for r in results], [r[1] for r in results])


class Reference(NamedTuple):
    """By pipeline and stage the gradients, of copies the sum; by pipeline and micro-batch the
    losses and outputs."""

    gradients: dict[tuple[int, int], list[Tensor | None]]
    losses: dict[tuple[int, int], Tensor]
    outputs: dict[tuple[int, int], Tensor]


def one_process(
    spec: Spec, x: Any, target: Any, make: Callable[[int], nn.Module] = Layer
) -> Reference:
    """The same step in one process: one sum of all losses, one backward."""
    modules = {
        seed_of(spec, p, s): make(seed_of(spec, p, s))
        for p, pipeline in enumerate(spec.pipelines)
        for s in range(len(pipeline.stages))
    }
    made: dict[tuple[int, int, int], Tensor] = {}

    def first(p: int) -> int:
        copied = spec.pipelines[p].replicates
        return p if copied < 0 else copied

    def share(whole: Any, p: int, m: int) -> Tensor:
        if isinstance(whole, Mapping):
            whole = whole[spec.pipelines[first(p)].name]
        at = (spec.pipelines[p].first + m) * ROWS
        return whole[at : at + ROWS]

    def output(p: int, s: int, m: int) -> Tensor:
        if (p, s, m) not in made:
            given = [share(x, p, m) if s == 0 else output(p, s - 1, m)]
            for q, other in enumerate(spec.pipelines):
                if any(tuple(feed) == (p, s) for feed in other.feeds):
                    given.append(output(q, len(other.stages) - 1, m))
            with torch.set_grad_enabled(not spec.pipelines[p].forward_only):
                made[p, s, m] = modules[seed_of(spec, p, s)](*given)
        return made[p, s, m]

    losses, total = {}, torch.zeros(())
    for p, pipeline in enumerate(spec.pipelines):
        count = sum(q.microbatches for k, q in enumerate(spec.pipelines) if first(k) == first(p))
        learns = [q for q, _ in pipeline.feeds if not spec.pipelines[q].forward_only]
        for m in range(pipeline.microbatches):
            found = output(p, len(pipeline.stages) - 1, m)
            if not pipeline.forward_only and not learns:
                losses[p, m] = loss(found, share(target, p, m))
                total = total + losses[p, m] / count
    if total.requires_grad:
        total.backward()
    return Reference(
        {
            (p, s): [q.grad for q in modules[seed_of(spec, p, s)].parameters()]
            for p, pipeline in enumerate(spec.pipelines)
            for s in range(len(pipeline.stages))
        },
        {key: value.detach() for key, value in losses.items()},
        {
            (p, m): output(p, len(pipeline.stages) - 1, m).detach()
            for p, pipeline in enumerate(spec.pipelines)
            for m in range(pipeline.microbatches)
        },
    )
