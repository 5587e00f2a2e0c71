"""What goes wrong among ranks: one clear message, an exit code that is not 0, and no hang."""

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from stretto.compiler.plan.plan import Plan
from stretto.compiler.program.program import Wait
from stretto.runtime import Executor, PipelineError, run_local
from stretto.runtime.coordination.store import Store
from stretto.runtime.transport.local import Local
from tests.support.ranks import Outcome, run
from tests.support.training import Layer, batch, built, compiled, loss, spec_of

pytestmark = pytest.mark.xdist_group("ranks")  # one after the other: they wait for each other

PLAN = {"ranks": 3, "microbatches": 4}


class Faulty(Layer):
    """Does `act` at the micro-batches `when`."""

    act: Callable[[], None]
    when: tuple[int, ...]

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        self.count = getattr(self, "count", -1) + 1
        if self.count in self.when:
            self.act()
        return super().forward(x, *others)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def sleep() -> None:
    time.sleep(100)


def fail() -> None:
    raise ValueError("too large")


def faulty_step(
    rank: int, plan: Plan, act: Callable[[], None], when: tuple[int, ...], timeout: float
) -> None:
    spec = spec_of(plan)
    modules = built(spec, rank, lambda seed: Faulty(seed) if seed == 1 else Layer(seed))
    for module in modules.values():
        if isinstance(module, Faulty):
            module.act, module.when = act, when
    x, target = batch(spec)
    Executor(plan, modules, loss, timeout=timeout).step(x, target=target)


def faulty(act: Callable[[], None], timeout: float, **options: Any) -> Outcome:
    plan = compiled("one_f_one_b", **PLAN)
    return run(3, faulty_step, plan, act, (2,), timeout, check=False, **options)


def test_a_rank_that_fails_is_quoted_by_the_others() -> None:
    outcome = faulty(fail, 30)
    reason = "rank 1 computes `F main[1, 2]` (one_f_one_b.pipe:"
    assert all(code == 1 for code in outcome.codes)
    assert f"PipelineError: {reason}" in outcome.output[1] and "too large" in outcome.output[1]
    for rank in (0, 2):
        assert f"rank {rank} stops: {reason}" in outcome.output[rank]
        assert "and fails at step 1: ValueError: too large" in outcome.output[rank]


def test_a_rank_that_is_killed_is_missed() -> None:
    outcome = faulty(kill, 30)
    assert outcome.codes == [1, -9, 1]
    told = outcome.output[0] + outcome.output[2]
    assert "waits at `" in told or "sends to rank 1" in told
    assert "has lost rank 1: its process has ended without a word" in told
    assert "the last that was seen: rank 1 computes `F main[1, 2]` (one_f_one_b.pipe:" in told


def test_a_rank_that_is_stopped_is_found_out() -> None:
    outcome = faulty(stop, 5, stopped=(1,))
    assert outcome.codes == [1, -9, 1]
    told = outcome.output[0] + outcome.output[2]
    assert "the step stands still: rank" in told
    assert "  rank 1: no answer, the process is stopped or gone" in told


def keeping_step(rank: int, plan: Plan, act: Callable[[], None], port: int, timeout: float) -> None:
    """As `faulty_step`, but rank 0 keeps the store, and does `act` at its fourth micro-batch."""
    spec = spec_of(plan)
    kept = TCPStore("127.0.0.1", port, is_master=rank == 0, wait_for_workers=False)
    modules = built(spec, rank, lambda seed: Faulty(seed) if seed == 0 else Layer(seed))
    for module in modules.values():
        if isinstance(module, Faulty):
            module.act, module.when = act, (3,)
    x, target = batch(spec)
    Executor(plan, modules, loss, store=Store(kept, "own/"), timeout=timeout).step(x, target=target)


def keeping(act: Callable[[], None], timeout: float, **options: Any) -> Outcome:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    plan = compiled("one_f_one_b", **PLAN)
    return run(3, keeping_step, plan, act, port, timeout, check=False, **options)


def test_the_store_is_lost_with_the_rank_that_keeps_it() -> None:
    outcome = keeping(kill, 60)
    assert outcome.codes == [-9, 1, 1]
    for output in outcome.output[1:]:
        assert "rank 0: its process has ended without a word (killed, or out of memory?)" in output
        assert "the last that was seen: rank 0 computes `F main[0, 3]` (one_f_one_b.pipe:" in output


def test_a_store_that_does_not_answer_ends_the_others() -> None:
    """As where the machine of rank 0 is gone: no connection breaks."""
    outcome = keeping(stop, 5, stopped=(0,))
    assert outcome.codes == [-9, 1, 1]
    for rank in (1, 2):
        output = outcome.output[rank]
        assert f"rank {rank} waits at `" in output and "and stops: rank 0 is stopped" in output
        assert re.search("the store at 127.0.0.1:.*, does not answer: rank 0, which", output)


def test_a_rank_that_takes_too_long_is_found_out() -> None:
    outcome = faulty(sleep, 5)
    assert outcome.codes == [1, 1, 1]
    told = "".join(outcome.output)
    assert told.count("the step stands still") >= 1
    assert "rank 1 computes `F main[1, 2]` (one_f_one_b.pipe:" in told
    assert "waits at `B main[0, " in told or "waits at `F main[2, 2]`" in told


def short_sleep() -> None:
    time.sleep(2)


def test_ranks_that_are_at_work_are_not_disturbed() -> None:
    """Rank 0 waits for 6 s until rank 1 comes to its backwards: longer than it would for one that
    stands still."""
    plan = compiled("gpipe", **PLAN)
    outcome = run(3, faulty_step, plan, short_sleep, (1, 2, 3), 4.0, check=False)
    assert outcome.codes == [0, 0, 0], outcome.output


# Before the first step --------------------------------------------------------------------------


def meet(rank: int, plans: list[Plan | None], timeout: float) -> None:
    plan = plans[rank]
    if plan is None:
        time.sleep(timeout + 2)
        return
    Executor(plan, built(spec_of(plan), rank), loss, timeout=timeout).close()


def met(plans: list[Plan | None], timeout: float = 10) -> Outcome:
    return run(len(plans), meet, plans, timeout, check=False)


def test_a_rank_that_does_not_come_is_named() -> None:
    plan = compiled("one_f_one_b", **PLAN)
    outcome = met([plan, plan, None], 1)
    assert outcome.codes[:2] == [1, 1]
    for output in outcome.output[:2]:
        assert "rank 2 did not come within 1 s: is every process started?" in output


def test_rank_0_may_be_the_one() -> None:
    plan = compiled("one_f_one_b", **PLAN)
    outcome = met([None, plan, plan], 1)
    assert outcome.codes[1:] == [1, 1]
    assert all("rank 0 did not come within 1 s" in output for output in outcome.output[1:])


def test_another_plan_is_told_from_this_one() -> None:
    plan, other = compiled("one_f_one_b", **PLAN), compiled("gpipe", **PLAN)
    outcome = met([plan, other, plan])
    assert outcome.codes == [1, 1, 1]
    words = f"has another plan: {other.hash[:12]}, and rank 0 has {plan.hash[:12]}"
    assert all("rank 1 on " in output and words in output for output in outcome.output)


def test_a_plan_for_another_number_of_ranks() -> None:
    plan = compiled("one_f_one_b", **PLAN)
    outcome = met([plan, plan])
    words = "the plan is for 3 ranks, and there are 2: start 3 (`torchrun --nproc-per-node 3"
    assert outcome.codes == [1, 1]
    assert all(words in output for output in outcome.output)
    plan = compiled("one_f_one_b", ranks=1, microbatches=4)
    outcome = met([plan, plan])
    assert outcome.codes == [1, 1]
    assert all("the plan is for 1 rank, and there are 2" in output for output in outcome.output)


def test_a_plan_that_cannot_be_proved_is_not_run() -> None:
    plan = compiled("one_f_one_b", **PLAN)
    train = plan.programs["train"]
    ranks = list(train.ranks)
    ranks[1] = tuple(i for i in ranks[1] if type(i) is not Wait)
    broken = replace(plan, programs={**plan.programs, "train": replace(train, ranks=tuple(ranks))})
    outcome = met([broken] * 3)
    assert outcome.codes == [1, 1, 1]
    for output in outcome.output:
        assert "the plan's proof fails, so it is not run" in output and "rank 1, " in output


def disagree(rank: int, plan: Plan) -> None:
    spec = spec_of(plan)
    x, target = batch(spec)
    if rank == 1:
        x, target = torch.cat([x, x]), torch.cat([target, target])
    Executor(plan, built(spec, rank), loss, timeout=5).step(x, target=target)


@pytest.mark.parametrize("name", ["one_f_one_b", "dualpipe"])
def test_ranks_with_different_batches(name: str) -> None:
    outcome = run(2, disagree, compiled(name, ranks=2, microbatches=4), check=False)
    assert outcome.codes == [1, 1]
    words = "x has micro-batches of (4, 6) float32 on rank 1, but of (2, 6) float32 on rank 0"
    assert all(words in output for output in outcome.output)


def test_of_threads_one_that_never_comes_back_is_told_and_left() -> None:
    """Which an exception, or nothing at all, has ended for the others."""
    plan, over = compiled("one_f_one_b", **PLAN), threading.Event()

    def one(transport: Local) -> None:
        modules = built(spec_of(plan), transport.rank)
        executor = Executor(plan, modules, loss, transport=transport, timeout=1)
        if transport.rank == 1:
            over.wait(100)
        x, target = batch(spec_of(plan))
        executor.step(x, target=target)

    with pytest.raises(PipelineError, match="for rank 1 to begin step 1"):
        run_local(plan, one)
    over.set()


class Silent(Exception):
    """One whose words cannot be had."""

    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize("error", [KeyError("x"), Silent(), KeyboardInterrupt()])
def test_an_error_of_a_thread_bears_its_rank(error: BaseException) -> None:
    plan = compiled("one_f_one_b", **PLAN)

    def one(transport: Local) -> None:
        if transport.rank == 1:
            raise error

    with pytest.raises(type(error)) as raised:
        run_local(plan, one)
    assert raised.value is error and error.__notes__ == ["on rank 1"]


@pytest.mark.parametrize("code", [3, "too late", 0])
def test_a_thread_that_exits_does_not_end_the_process_without_a_word(code: object) -> None:
    plan = compiled("one_f_one_b", **PLAN)

    def one(transport: Local) -> None:
        if transport.rank == 1:
            raise SystemExit(code)

    with pytest.raises(PipelineError, match=rf"rank 1 fails: sys\.exit\({code}\)"):
        run_local(plan, one)
