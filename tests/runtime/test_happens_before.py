"""A step on a device whose streams go on by themselves: whatever delays they have, everything is
read behind what made it, and memory is given back behind its last use. There is no GPU here: see
`tests.support.happens_before`. What is checked is seen to be checked: each kind of wait is lost on
purpose."""

import re
import threading
from collections.abc import Callable, Set
from typing import Any

import pytest
import torch

from stretto.compiler.plan.plan import Plan
from stretto.runtime import Executor, run_local
from stretto.runtime.transport.local import Local
from tests.support.happens_before import CheckedDevice, Drop, computing_on, settled
from tests.support.part_plans import part_plan
from tests.support.part_stages import CutLayer
from tests.support.training import (
    Layer,
    Modules,
    batch,
    built,
    compiled,
    loss,
    one_process,
    spec_of,
    there,
)

LOOPS = {"one_by_one", "issued"}  # of a rank's list
NONE_LOST: Drop = lambda site, stream, event: False  # noqa: E731


def steps(
    plan: Plan,
    make: Any = Layer,
    drop: Drop = NONE_LOST,
    lazy: Set[str] = frozenset(),
    **options: Any,
) -> tuple[CheckedDevice, list[Modules]]:
    """The device, and by rank the modules that have taken two steps on it; the gradients are those
    of the last one, of known shapes."""
    device = CheckedDevice(drop)
    spec = spec_of(plan)

    def rank(transport: Local) -> None:
        with device.watching():
            modules = every[transport.rank]
            executor = Executor(plan, modules, loss, transport=transport, timeout=20.0, **options)
            for _ in range(2):
                device.looks.clear()
                for parameter in executor.parameters():
                    parameter.grad = None
                executor.step(x, target=target)
            executor.close()

    with computing_on(device, lazy), device.watching():
        x, target = batch(spec)
        every = [built(spec, rank, make) for rank in range(spec.ranks)]
        run_local(plan, rank)
        for parameter in parameters(every):  # the caller looks at all of it
            if parameter.grad is not None:
                parameter.grad.sum()
    return device, every


def parameters(every: list[Modules]) -> list[torch.nn.Parameter]:
    return [p for modules in every for module in modules.values() for p in module.parameters()]


def check(plan: Plan, make: Any = Layer) -> CheckedDevice:
    device, found = steps(plan, make)
    settled(device)
    spec = spec_of(plan)
    expected = one_process(spec, *batch(spec), make)
    for p, line in enumerate(spec.pipelines):
        for s in range(len(line.stages)):
            (module,) = [m[line.name, s] for m in found if (line.name, s) in m]
            for ours, theirs in zip(module.parameters(), expected.gradients[p, s], strict=True):
                assert (ours.grad is None) == (theirs is None)
                assert theirs is None or torch.allclose(there(ours.grad), theirs, atol=1e-6)
    return device


@pytest.mark.parametrize(
    "name, sizes",
    [
        ("one_f_one_b", {"ranks": 3, "microbatches": 4}),
        ("zb_v", {"ranks": 2, "microbatches": 4}),
        ("interleaved_1f1b", {"ranks": 2, "microbatches": 4}),
        ("dualpipe", {"ranks": 2, "microbatches": 4}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_use_is_behind_what_made_it(name: str, sizes: dict[str, int]) -> None:
    device = check(compiled(name, **sizes))
    assert len(device.streams) == 1 + 2 * sizes["ranks"]  # the caller's; a rank's, and its copies'
    inside = [site for _, site in device.looks if in_the_list(site)]
    assert not inside, f"the host looks at numbers in a step of known shapes: {inside[:3]}"


@pytest.mark.parametrize("order", ["one way", "both ways", "there and back"])
def test_parts_on_several_streams(order: str) -> None:
    device = check(part_plan(order), CutLayer)
    assert any(site == "await_" for site, _ in device.waits)


def lost(words: str, which: Callable[[Any, Any], bool] = lambda stream, event: True) -> Drop:
    """Waits that are asked for where these words stand."""
    return lambda site, stream, event: words in site and which(stream, event)


def sender(stream: Any, event: Any) -> bool:
    """Whether the rank that waits for the copy is the one that sends."""
    return bool(event.stream.thread is threading.current_thread())


LOST: dict[str, tuple[str, Drop, str]] = {
    "what is sent is made": ("zb_v", lost("sent.issued"), "copy_ .* reads .* which writes it"),
    "the buffer is there": ("zb_v", lost("received.issued"), "copy_ .* writes .* beside empty"),
    "what is read has come": (
        "zb_v",
        lost("wait_event(self.copied)", lambda *of: not sender(*of)),
        "reads .* beside copy_",
    ),
    "what was sent is taken": (
        "zb_v",
        lost("wait_event(self.copied)", sender),
        "let go of while copy_",
    ),
    "the caller has made it": ("zb_v", lost("wait_stream(self.caller)"), "on stream 0, which"),
    "the ranks have ended": ("zb_v", lost("self.caller.wait"), "sum on stream 0 reads .* beside"),
    "a part has ended": ("parts", lost("await_"), "reads .* which writes it"),
    "another stream uses it": ("parts", lost("uses"), "is let go of while"),
}


@pytest.mark.parametrize("what", LOST)
def test_a_wait_that_is_lost_is_found(what: str) -> None:
    name, drop, words = LOST[what]
    if name == "parts":
        device, _ = steps(part_plan("both ways"), CutLayer, drop)
    else:
        device, _ = steps(compiled(name, ranks=2, microbatches=4), drop=drop)
    assert any(re.search(words, told) for told in device.found), device.found[:5]


def test_a_look_of_the_host_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Local, "tells", False)  # gradients that are not there, as gloo says it
    device, _ = steps(compiled("one_f_one_b", ranks=2, microbatches=4))
    assert any("_says_nothing" in site and in_the_list(site) for _, site in device.looks)


def in_the_list(site: str) -> bool:
    """Whether an instruction of the list led there."""
    return bool(LOOPS & set(site.split(" < ")))


def test_losses_that_are_none_are_looked_for_at_the_end_of_a_step() -> None:
    plan = compiled("one_f_one_b", ranks=2, microbatches=4)
    device, _ = steps(plan, on_nonfinite="stop")
    assert not [site for _, site in device.looks if in_the_list(site)]
    for rank in ("rank 0", "rank 1"):  # its losses, and what all ranks say: not once for each
        assert sum(thread == rank for thread, _ in device.looks) <= 2, device.looks


class Writes(Layer):
    """A stage that writes on what it is given."""

    def forward(self, x: torch.Tensor, /, *others: torch.Tensor) -> torch.Tensor:
        return super().forward(x.add_(1.0))


def test_a_stage_may_write_on_its_input_on_a_device_too() -> None:
    plan = compiled("zb_v", ranks=2, microbatches=4)
    settled(steps(plan, Writes)[0])
    device, _ = steps(plan, Writes, lazy={"cpu"})
    assert any("which it does outside of all streams" in told for told in device.found)
