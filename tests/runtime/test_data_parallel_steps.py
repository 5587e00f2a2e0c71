"""Data parallelism over several steps, with parameters that are unused, frozen or in buffers, and
what is refused."""

import os
import signal
import threading
import time
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stretto.compiler.plan.plan import Plan
from stretto.compiler.program.program import Compute
from stretto.runtime import Executor, PipelineError
from tests.support.mesh import KINDS, Counted, batch_seed, expected, gradients_of, mesh, same
from tests.support.ranks import run
from tests.support.training import (
    WIDTH,
    Layer,
    batch,
    built,
    compiled,
    loss,
    seed_of,
    spec_of,
    there,
)

pytestmark = pytest.mark.xdist_group("ranks")  # one after the other: they wait for each other

SIZES = {"ranks": 2, "microbatches": 4}


# Several steps ----------------------------------------------------------------------------------


def accumulated(_: int, plan: Plan, kind: str) -> Any:
    """A step without synchronization, an evaluation, a step with it, and one more: gradients after
    the second and the third, collectives after each."""
    spec = spec_of(plan)
    place = mesh(spec.ranks)
    modules = {k: KINDS[kind](m, place.replicas) for k, m in built(spec, place.rank).items()}
    replicas = place.replicas if kind == "plain" else None
    executor = Executor(plan, modules, loss, group=place.pipeline, timeout=30, replicas=replicas)
    counts, found = [], []
    with Counted() as counted:
        for step in range(3):
            x, target = batch(spec, seed=batch_seed(step, place.replica))
            if step:
                executor.step(x, target=target)
                found.append(gradients_of(modules))
            else:
                with executor.no_sync():
                    executor.step(x, target=target)
                executor.eval(x)
            counts.append(counted.count)
    executor.close()
    return found, counts, len(modules)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param("dualpipe", "plain", marks=pytest.mark.full),
        pytest.param("dualpipe", "fsdp", marks=pytest.mark.full),
        ("zb_v", "fsdp_blocks"),
    ],
)
def test_steps_accumulate(name: str, kind: str) -> None:
    plan = compiled(name, **SIZES)
    outcome = run(4, accumulated, plan, kind)
    steps = [expected(plan, 2, step) for step in range(3)]
    for (second, third), counts, stages in outcome.results:
        each = stages * (3 if kind == "fsdp_blocks" else 1)
        assert counts == [0, each, 2 * each]
        for found, many in ((second, 2), (third, 3)):
            for key, gradients in found.items():
                for k, gradient in enumerate(gradients):
                    wanted = torch.stack([there(steps[s][key][k]) for s in range(many)]).sum(0)
                    assert torch.allclose(there(gradient), wanted, rtol=1e-5, atol=1e-7)


# Gradients that are not there -------------------------------------------------------------------


class Choosy(nn.Module):
    """Uses `a` for batches of replica 0 and `b` for others, never `c`; `d` is frozen."""

    def __init__(self, seed: int):
        super().__init__()
        self.layer = Layer(seed)
        self.a, self.b, self.c, self.d = (nn.Parameter(torch.full((3,), 0.5)) for _ in range(4))
        self.d.requires_grad = False
        self.register_buffer("count", torch.zeros(()))
        self.replica = 0

    count: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.count += self.replica + 1
        chosen = self.b if self.replica else self.a
        return self.layer(x) * chosen.sum() * self.d.sum()


def choosy(_: int, plan: Plan, wrap: bool) -> Any:
    """The gradients of the four parameters, the buffer, and how often a buffer was broadcast."""
    place = mesh(2)
    stage = Choosy(place.rank)
    given: nn.Module = stage
    if wrap:
        given = DistributedDataParallel(
            stage, process_group=place.replicas, find_unused_parameters=True
        )
    stage.replica = place.replica
    broadcasts = 0
    torch_distributed: Any = dist
    real = torch_distributed._broadcast_coalesced

    def broadcast(*args: Any) -> Any:
        nonlocal broadcasts
        broadcasts += 1
        return real(*args)

    torch_distributed._broadcast_coalesced = broadcast
    executor = Executor(
        plan,
        [given],
        loss,
        group=place.pipeline,
        timeout=30,
        replicas=None if wrap else place.replicas,
    )
    x, target = batch(spec_of(plan), seed=place.replica)
    executor.step(x, target=target)
    executor.close()
    return [stage.a.grad, stage.b.grad, stage.c.grad, stage.d.grad], float(stage.count), broadcasts


@pytest.mark.parametrize("wrap", [False, True], ids=["plain", "ddp"])
def test_absent_gradients_stay_absent(wrap: bool) -> None:
    """One that is unused everywhere has none; one that a replica uses has half of that one's."""
    plan = compiled("one_f_one_b", **SIZES)
    results = run(4, choosy, plan, wrap).results
    for rank in (0, 1):
        (first, count, broadcasts), (second, other, _) = results[rank], results[2 + rank]
        for mine, theirs in zip(first[:2], second[:2], strict=True):
            assert torch.equal(mine, theirs) and mine.abs().sum() > 0
        assert first[2:] == second[2:] == [None, None]
        assert other == 2 * count and broadcasts == 0


# Start ------------------------------------------------------------------------------------------


def unequal(rank: int, plan: Plan) -> Any:
    """Every process draws weights of its own; after a step with equal batches."""
    place = mesh(2)
    stage = Layer(1000 + rank)
    executor = Executor(
        plan, [stage], loss, group=place.pipeline, timeout=30, replicas=place.replicas
    )
    x, target = batch(spec_of(plan))
    executor.step(x, target=target)
    executor.close()
    return [(p.detach(), p.grad) for p in stage.parameters()]


def test_replicas_start_with_the_weights_of_the_first() -> None:
    results = run(4, unequal, compiled("one_f_one_b", **SIZES)).results
    for rank in (0, 1):
        for (weight, _), (p, a), (q, b) in zip(
            [(p, 0) for p in Layer(1000 + rank).parameters()],
            results[rank],
            results[2 + rank],
            strict=True,
        ):
            assert torch.equal(weight, p) and torch.equal(p, q) and torch.equal(a, b)


def two_jobs(rank: int, plans: list[Plan]) -> Any:
    """Two pipelines of one job that have nothing to do with each other: other plans, shapes and
    numbers of steps."""
    place = mesh(2)
    plan = plans[place.replica]
    spec = spec_of(plan)
    modules = built(spec, place.rank)
    executor = Executor(plan, modules, loss, group=place.pipeline, timeout=30)
    for step in range(1 + place.replica):
        x, target = batch(spec, seed=step)
        executor.step(x, target=target)
        executor.eval(x[: len(x) // 2])
    executor.close()
    return gradients_of(modules)


def test_pipelines_of_one_job_do_not_mix_their_keys() -> None:
    plans = [compiled("one_f_one_b", **SIZES), compiled("gpipe", ranks=2, microbatches=6)]
    results = run(4, two_jobs, plans).results
    for rank, found in enumerate(results):
        plan = plans[rank // 2]
        steps = [expected(plan, 1, 0)]
        if rank // 2:
            x = expected(plan, 2, 0)  # the seeds of steps 0 and 1 of one pipeline: their mean
            assert all(
                torch.allclose(there(a), 2 * there(b), rtol=1e-5, atol=1e-6)
                for key in found
                for a, b in zip(found[key], x[key], strict=True)
            )
        else:
            assert same(found, steps[0])


def refused(rank: int, plan: Plan, case: str) -> str:
    """The sentence with which the executor is refused."""
    place = mesh(2)
    stage: Any = Layer(seed_of(spec_of(plan), 0, place.rank))
    group: Any = place.replicas
    replicas: Any = None
    match case:
        case "default group":
            stage = DistributedDataParallel(stage)
        case "static graph":
            stage = DistributedDataParallel(stage, process_group=group, static_graph=True)
        case "hook":
            stage = DistributedDataParallel(stage, process_group=group)
            stage.register_comm_hook(None, lambda state, bucket: bucket.buffer())
        case "part":
            stage.up = DistributedDataParallel(stage.up, process_group=group)
        case "fsdp1":
            from torch.distributed.fsdp import FullyShardedDataParallel

            stage = FullyShardedDataParallel(
                stage, process_group=group, device_id=torch.device("cpu")
            )
        case "left out":
            KINDS["fsdp"](stage.up, group)
        case "other plan":
            plan = plan if place.replica else compiled("gpipe", **SIZES)
            replicas = group
        case "other module":
            stage.up = nn.Linear(WIDTH, 2 * WIDTH, bias=bool(place.replica))
            replicas = group
        case "some alone":
            if place.rank == 0:
                stage = DistributedDataParallel(stage, process_group=group)
        case "no group":
            replicas = [0, 2]
    try:
        Executor(plan, [stage], loss, group=place.pipeline, timeout=20, replicas=replicas)
    except PipelineError as error:
        return str(error)
    return ""


REFUSED = {
    "default group": "of which 0, 1 are ranks of one pipeline",
    "static graph": "with static_graph=True, which a stage of a pipeline cannot keep",
    "hook": "with a communication hook",
    "part": "`up` of `main[0]` is wrapped in DistributedDataParallel",
    "fsdp1": "`main[0]` is wrapped in FullyShardedDataParallel (FSDP1)",
    "left out": "is in none of them, and would be trained with one replica's gradient",
    "other plan": "has another plan than its replica, process 0",
    "other module": "`main[0]` differs between replicas: up.bias of (12,) torch.float32",
    "some alone": "`main[0]` has replicas, and `main[1]` has none",
    "no group": "`replicas` is a list: give a process group",
}


def all_refused(rank: int, plan: Plan) -> dict[str, str]:
    return {case: refused(rank, plan, case) for case in REFUSED}


def test_what_cannot_be_right_is_refused() -> None:
    """On every process, by name; the executors of one job are made one after the other."""
    results = run(4, all_refused, compiled("one_f_one_b", **SIZES), seconds=100).results
    for case, sentence in REFUSED.items():
        told = [found[case] for found in results]
        assert all(told), (case, told)
        assert any(sentence in one for one in told), (case, told)


# Beside what follows ----------------------------------------------------------------------------


def overlapped(_: int, plan: Plan, kind: str) -> list[str]:
    """What a rank does, in order: gradients of weights, collectives that begin, and in the end
    whether these could wait until the list was done with all gradients."""
    from stretto.runtime import interpreter

    spec = spec_of(plan)
    place = mesh(spec.ranks)
    modules = {k: KINDS[kind](m, place.replicas) for k, m in built(spec, place.rank).items()}
    replicas = place.replicas if kind == "plain" else None
    executor = Executor(plan, modules, loss, group=place.pipeline, timeout=60, replicas=replicas)
    many = sum(isinstance(one, Compute) for one in executor.plan.programs["train"].instructions)
    told: list[str] = []
    done = threading.Event()

    class Held:
        """A collective that does not end before the list has."""

        def __init__(self, work: Any):
            self.work = work

        def is_completed(self) -> bool:
            return done.is_set() and self.work.is_completed()

        def wait(self) -> None:
            told.append("held" if done.wait(20) else "blocked")
            self.work.wait()

    def holding(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            told.append("begins")
            return Held(real(*args, **kwargs))

        return call

    def counting(real: Any) -> Any:
        def call(run: Any, own: Any) -> Any:
            result = real(run, own)
            told.append(own.operation.kind)
            if sum(len(one) == 1 for one in told) == many:
                done.set()
            return result

        return call

    torch_distributed: Any = dist
    for name in ("all_reduce", "reduce_scatter_single"):
        setattr(torch_distributed, name, holding(getattr(dist, name)))
    for kind_, real in interpreter.OPERATIONS.items():
        interpreter.OPERATIONS[kind_] = counting(real)
    x, target = batch(spec, seed=place.replica)
    executor.step(x, target=target)
    executor.close()
    return told


@pytest.mark.parametrize("kind", [pytest.param("plain", marks=pytest.mark.full), "fsdp"])
def test_a_stage_is_averaged_while_the_rank_goes_on(kind: str) -> None:
    plan = compiled("zb_v", **SIZES)
    for told in run(4, overlapped, plan, kind).results:
        assert told.count("begins") == 2 and "blocked" not in told
        first = told.index("begins")
        assert any(len(one) == 1 for one in told[first:]), told  # computations follow
        assert told.index("held") > max(k for k, one in enumerate(told) if len(one) == 1)


# Failures ---------------------------------------------------------------------------------------


class Faulty(Layer):
    """Fails, dies or sleeps at its third forward."""

    act = ""

    def forward(self, x: Tensor, /, *others: Tensor) -> Tensor:
        self.count = getattr(self, "count", 0) + 1
        if self.count == 3 and self.act == "fail":
            raise ValueError("too large")
        if self.count == 3 and self.act == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.count == 3 and self.act == "sleep":
            time.sleep(300)
        return super().forward(x, *others)


def faulty(rank: int, plan: Plan, act: str, kind: str) -> None:
    """Process 0, the first rank of the first pipeline, is at fault."""
    place = mesh(2)
    stage: nn.Module = Faulty(place.rank)
    if rank == 0:
        stage.act = act  # type: ignore[assignment]
    stage = KINDS[kind](stage, place.replicas)
    replicas = place.replicas if kind == "plain" else None
    executor = Executor(plan, [stage], loss, group=place.pipeline, timeout=4, replicas=replicas)
    x, target = batch(spec_of(plan))
    executor.step(x, target=target)


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        ("fail", "plain"),
        *(
            pytest.param(act, kind, marks=pytest.mark.full)
            for act, kind in [
                ("die", "plain"),
                ("sleep", "plain"),
                ("fail", "fsdp"),
                ("die", "fsdp"),
                ("sleep", "ddp"),
            ]
        ),
    ],
)
def test_a_fault_in_one_pipeline_ends_the_others(act: str, kind: str) -> None:
    """All end, none by the test's deadline; the other pipeline says that it was not its own."""
    outcome = run(4, faulty, compiled("one_f_one_b", **SIZES), act, kind, seconds=120, check=False)
    assert all(outcome.codes), outcome
    other = outcome.output[2] + outcome.output[3]
    if act == "fail":
        assert "the pipeline of process" in other and "too large" in other, other
    else:
        assert "replica" in other or "process" in other, other
