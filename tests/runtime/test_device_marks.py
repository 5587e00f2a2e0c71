"""The watchdog of a rank whose process has issued the whole step, and whose device stands still in
the middle of it. The device is one that tells what is over as the test says."""

import time
from typing import Any

import pytest

from stretto.compiler.program.program import Await, Compute, Wait
from stretto.runtime import Executor, run_local
from stretto.runtime.transport import local
from stretto.runtime.transport.local import Local
from tests.support.happens_before import CheckedDevice
from tests.support.part_plans import part_plan
from tests.support.part_stages import CutLayer
from tests.support.training import Layer, batch, built, compiled, loss, spec_of


class Stuck:
    """Ranks that take a step; then, on rank 1, the device stands at the last instruction of a type
    that comes before micro-batch 2's F."""

    def __init__(self, plan: Any, make: Any, kind: type, timeout: float = 20.0):
        self.plan, self.make, self.kind, self.timeout = plan, make, kind, timeout
        self.device = CheckedDevice()
        self.told: list[Any] = []

    def run(self, patch: pytest.MonkeyPatch, wait: float = 0.0) -> list[Any]:
        patch.setattr(local, "accelerator_of", lambda _: self.device)
        x, target = batch(spec_of(self.plan))

        def rank(transport: Local) -> Any:
            modules = built(spec_of(self.plan), transport.rank, self.make)
            executor = Executor(self.plan, modules, loss, transport=transport, timeout=self.timeout)
            executor.step(x, target=target)
            if transport.rank == 1:
                before = executor.activity.position()
                self.stop(executor)
                self.told += [before, executor.activity.position()]
            end = time.monotonic() + wait
            while time.monotonic() < end and not transport.hub.report:
                time.sleep(0.05)  # as in a wait for the device
            executor.close()
            return transport.hub.report

        return run_local(self.plan, rank)

    def stop(self, executor: Executor) -> None:
        instructions = executor.plan.programs["train"].instructions
        place = next(
            at
            for at, one in enumerate(instructions)
            if isinstance(one, Compute) and one.operation.kind == "F" and one.operation[3] == 2
        )
        at = max(k for k in range(place + 1) if isinstance(instructions[k], self.kind))
        assert executor.marks is not None
        event = executor.marks.events["train", at]
        self.device.is_over = lambda one: one is not event


def test_where_the_device_stands_is_where_the_rank_is(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = Stuck(compiled("one_f_one_b", ranks=2, microbatches=4), Layer, Compute)
    stuck.run(monkeypatch)
    before, after = stuck.told
    assert before.where == "is between steps" and not before.busy
    assert after.where.startswith("is between steps; its device computes `F main[1, 2]` (")
    assert after.busy and not after.waiting_for and after.key != before.key


def test_on_several_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = Stuck(part_plan("one way", ranks=2), CutLayer, Await)
    stuck.run(monkeypatch)
    assert "; its device awaits `" in stuck.told[1].where
    assert "` on stream `comm`" in stuck.told[1].where


def test_a_device_that_stands_still_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = compiled("one_f_one_b", ranks=2, microbatches=4)
    stuck = Stuck(plan, Layer, Wait, timeout=0.3)
    report = "".join(stuck.run(monkeypatch, wait=15.0)[1:])
    assert stuck.told[1].waiting_for == (0,)
    first, second = report.splitlines()[:2]
    assert first.startswith("the step stands still: rank 1 is between steps; its device waits at ")
    assert "`F main[1, 2]`" in first and "for `F main[0, 2]` of rank 0, for " in first
    assert second.startswith("  rank 0 is between steps")


def test_a_device_that_has_failed_stands_where_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Any) -> bool:
        raise RuntimeError("CUDA error")

    stuck = Stuck(compiled("one_f_one_b", ranks=2, microbatches=4), Layer, Compute)
    monkeypatch.setattr(stuck, "stop", lambda _: setattr(stuck.device, "is_over", fails))
    stuck.run(monkeypatch)
    assert "; its device " in stuck.told[1].where
