"""Plans of stages in parts, run: every stream of a rank by itself."""

import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from stretto.compiler.plan.plan import Plan, write_plan
from stretto.runtime import Executor, PipelineError
from stretto.runtime.rank_program import plan_for_rank
from stretto.runtime.train.verify import verify
from tests.support.part_plans import CHAIN, part_plan
from tests.support.part_stages import WIDTH, CutLayer, Experts, TwoLayers
from tests.support.ranks import run
from tests.support.steps import executors
from tests.support.training import (
    Trained,
    batch,
    built,
    loss,
    one_process,
    seed_of,
    spec_of,
    trained,
)

SCHEDULES = [("one way", True), ("one way", False), ("both ways", True), ("there and back", True)]


def check(plan: Plan, found: Trained, make: Any) -> None:
    """Gradients are those of one process, up to rounding; copies have equal ones."""
    spec = spec_of(plan)
    expected = one_process(spec, *batch(spec), make)
    for (p, s), theirs in expected.gradients.items():
        for ours, wanted in zip(found.gradients(spec.pipelines[p].name, s), theirs, strict=True):
            assert (ours is None) == (wanted is None)
            if ours is not None and wanted is not None:
                assert torch.allclose(ours, wanted, atol=1e-6)


@pytest.mark.parametrize("make", [CutLayer, TwoLayers])
@pytest.mark.parametrize(("order", "split"), SCHEDULES)
def test_a_step_is_that_of_one_process(order: str, split: bool, make: Any) -> None:
    plan = part_plan(order, split, layers=1 if make is CutLayer else 2)
    check(plan, trained(plan, *batch(spec_of(plan)), make), make)


class NoForward(CutLayer):
    forward = nn.Module.forward


@pytest.mark.parametrize("make", [CutLayer, NoForward])
def test_whole_stages_run_the_same_order_on_one_stream(make: Any) -> None:
    plan = part_plan("both ways", whole=True)
    check(plan, trained(plan, *batch(spec_of(plan)), make), CutLayer)
    assert verified(plan, make).equal


def test_messages_of_all_streams_are_those_of_the_plan() -> None:
    plan = part_plan("both ways")
    x, target = batch(spec_of(plan))
    options = {"check_messages": True, "on_nonfinite": "stop", "steps": 2}
    found = trained(plan, x, target, CutLayer, **options)  # type: ignore[arg-type]
    assert all(losses for losses in found.losses)


def verified(plan: Plan, make: Any) -> Any:
    """What `verify` finds, on rank 0."""
    spec = spec_of(plan)
    x, target = batch(spec)

    def build(stage: Any) -> nn.Module:
        return make(seed_of(spec, *stage))

    def body(executor: Executor) -> Any:
        return verify(executor, plan, build, loss, x, target, {})

    return executors(plan, body, make)[0]


@pytest.mark.parametrize(("order", "split"), SCHEDULES)
def test_bit_for_bit_in_the_order_of_the_plan(order: str, split: bool) -> None:
    found = verified(part_plan(order, split), CutLayer)
    assert found.equal and found.losses == 4, str(found)


def test_a_rank_reads_its_streams_from_the_file(tmp_path: Path) -> None:
    plan = part_plan("both ways")
    write_plan(plan, tmp_path / "plan")
    for rank in (0, 1):
        read, given = (plan_for_rank(which, rank, 2) for which in (tmp_path / "plan", plan))
        assert read.programs == given.programs and len(read.programs["eval"].streams) == 2


def test_an_evaluation_is_that_of_one_process() -> None:
    plan = part_plan("both ways")
    x, target = batch(spec_of(plan))

    def body(executor: Executor) -> Any:
        losses: Any = {}
        executor.eval(x, target=target, losses=losses)
        return [found.item() for own in losses.values() for found in own]

    found = executors(plan, body, CutLayer)
    expected = one_process(spec_of(plan), x, target, CutLayer)
    assert sorted(one for own in found for one in own) == pytest.approx(
        sorted(loss.item() for loss in expected.losses.values())
    )


class Watched(CutLayer):
    """Notes which part runs on which thread, and under which settings."""

    seen: ClassVar[list[tuple[str, bool]]] = []

    def part(self, name: str, layer: int) -> Any:
        run = super().part(name, layer)

        def watched(*args: Any, **kwargs: Any) -> Any:
            thread = threading.current_thread().name
            self.seen.append((f"{name} {thread}", torch.is_autocast_enabled("cpu")))
            return run(*args, **kwargs)

        return watched


def test_streams_are_threads_with_the_settings_of_the_step() -> None:
    plan = part_plan()
    Watched.seen.clear()
    x, target = batch(spec_of(plan))

    def body(executor: Executor) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            executor.step(x, target=target)

    executors(plan, body, Watched)
    assert len(Watched.seen) == 2 * 4 * 4 and all(under for _, under in Watched.seen)
    threads = {what for what, _ in Watched.seen}
    assert threads == {
        *(f"{part} rank {r}" for part in ("att", "mlp") for r in (0, 1)),
        *(f"{part} stream comm" for part in ("disp", "comb")),
    }


def refusal(plan: Plan, make: Any) -> str:
    x, target = batch(spec_of(plan))
    with pytest.raises(PipelineError) as error:
        executors(plan, lambda executor: executor.step(x, target=target), make)
    return str(error.value)


class Hooked(CutLayer):
    def __init__(self, seed: int):
        super().__init__(seed)
        self.register_forward_hook(lambda *_: None)


class Diced(CutLayer):
    def disp(self, normal: Tensor, x: Tensor) -> Any:
        return {"normal": nn.functional.dropout(normal), "x": x}


class Shared(CutLayer):
    def comb(self, middle: Tensor, x: Any) -> Tensor:
        return super().comb(middle, x) + self.norm.bias


def test_what_is_refused_by_name() -> None:
    assert "place 4, behind `comb, layer 0`, the plan has `att, layer 1`" in refusal(
        part_plan(layers=2), CutLayer
    )
    assert "`main[0]` into parts, and its module, a Linear, does not say" in refusal(
        part_plan(), lambda seed: nn.Linear(6, 6)
    )
    assert "forward hooks on the whole stage" in refusal(part_plan(), Hooked)
    assert "draws random numbers from the generator of the process" in refusal(part_plan(), Diced)
    told = refusal(part_plan(), Shared)
    assert "norm.bias` is used by `F." in told and "two streams would add to its gradient" in told


class Faulty(CutLayer):
    """Does something wrong in the third call of a part, or is slow."""

    where, what = "", ""

    def part(self, name: str, layer: int) -> Any:
        run, calls = super().part(name, layer), iter(range(100))

        def part(*args: Any, **kwargs: Any) -> Any:
            if name == self.where:
                call = next(calls)
                if self.what == "slow" and call:
                    time.sleep(12)
                if self.what == "sleep" and call == 2:
                    time.sleep(60)
                if (self.what, call) in (("raise", 2), ("late", 0)):
                    raise ValueError("too large")
            return run(*args, **kwargs)

        return part


def faulty(rank: int, plan: Plan, at: int, where: str, what: str) -> str:
    """One rank of a step in which rank `at` fails."""
    spec = spec_of(plan)
    modules = built(spec, rank, Faulty)
    for module in modules.values():
        if rank == at:
            module.where, module.what = where, what  # type: ignore[assignment]
        elif what == "late":
            module.where, module.what = "comb", "slow"  # type: ignore[assignment]
    executor = Executor(plan, modules, loss, timeout=20.0 if what == "late" else 2.0)
    x, target = batch(spec)
    try:
        executor.step(x, target=target)
    except PipelineError as error:
        return str(error)
    return ""


@pytest.mark.xdist_group("ranks")
@pytest.mark.parametrize(("at", "where"), [(0, "disp"), (1, "comb"), (1, "mlp")])
def test_an_exception_on_any_stream_ends_all_ranks(at: int, where: str) -> None:
    stream = "compute" if where == "mlp" else "comm"
    for told in run(2, faulty, part_plan(), at, where, "raise", seconds=30).results:
        assert f"rank {at} computes `F.{where} main[{at}, 2, layer 0]`" in told
        assert f"on stream `{stream}`" in told and "ValueError: too large" in told


@pytest.mark.xdist_group("ranks")
def test_a_stream_fails_while_the_thread_of_the_step_waits_for_a_message() -> None:
    """Which cannot be interrupted: the process ends, and all are told why."""
    outcome = run(2, faulty, part_plan("two at once"), 1, "disp", "late", seconds=30, check=False)
    for found, output in zip(outcome.results, outcome.output, strict=True):
        told = f"{found}{output}"
        assert "rank 1 computes `F.disp main[1, 0, layer 0]`" in told
        assert "on stream `comm` and fails at step 1: ValueError: too large" in told


@pytest.mark.xdist_group("ranks")
def test_a_part_that_does_not_end_is_named() -> None:
    outcome = run(2, faulty, part_plan(), 0, "disp", "sleep", seconds=40, check=False)
    for told in outcome.output:
        assert "on `comm` computes `F.disp main[0, 2, layer 0]`" in told, told


def experts(rank: int, plan: Plan, other: Plan | None, what: str) -> Any:
    """One of four processes: two pipelines of two ranks, which share experts."""
    pipelines: list[Any] = [dist.new_group([2 * d, 2 * d + 1]) for d in range(2)]
    sharing: list[Any] = [dist.new_group([p, 2 + p]) for p in range(2)]
    shard, place = divmod(rank, 2)
    stage = Experts(10 * place + shard, names=("att", "disp", "mlp", "comb"))
    torch.manual_seed(shard)
    x = torch.randn(12, WIDTH)
    if what and rank == 3:
        stage.fault = what
    try:
        executor = Executor(
            other if other is not None and shard else plan,
            [stage],
            loss,
            group=pipelines[shard],
            collectives=sharing[place],
            timeout=2.0 if what else 20.0,
        )
        executor.step(x, target=torch.zeros_like(x))
    except PipelineError as error:
        return str(error)
    executor.close()
    return [p.grad is not None and bool(p.grad.isfinite().all()) for p in stage.parameters()]


@pytest.mark.xdist_group("ranks")
def test_collectives_have_a_group_for_each_stream() -> None:
    for found in run(4, experts, part_plan(), None, "", seconds=40).results:
        assert all(found) and len(found) == 8


@pytest.mark.xdist_group("ranks")
def test_who_shares_collectives_runs_one_list() -> None:
    other = part_plan(chain=CHAIN.replace("comb on comm", "comb"))
    for told in run(4, experts, part_plan(), other, "", seconds=40).results:
        assert "with which it shares collectives" in told or "stops" in told, told
        assert "All processes of such a group run the same rank's list" in told


@pytest.mark.xdist_group("ranks")
@pytest.mark.parametrize("what", ["raise", "sleep", "exit"])
def test_a_peer_that_never_enters_its_all_to_all(what: str) -> None:
    """All four processes end, and name the part."""
    outcome = run(4, experts, part_plan(), None, what, seconds=50, check=False)
    for rank, (found, output) in enumerate(zip(outcome.results, outcome.output, strict=True)):
        if (what, rank) != ("exit", 3):
            told = f"{found}{output}"
            assert "computes `F.disp main[1, 1, layer 0]`" in told, (rank, told)


def test_a_process_group_needs_processes() -> None:
    with pytest.raises(PipelineError, match="`collectives` needs a process for each rank"):
        executors(part_plan(), lambda _: None, CutLayer, collectives=object())
