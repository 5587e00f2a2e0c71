"""The sections of `make test-gpu` at small sizes, where there is no GPU."""

from typing import Any

import pytest
import torch

from stretto.runtime import run_local
from stretto.runtime.stage import private
from stretto.runtime.transport import local
from tests.gpu import graphs, memory, overhead, overlap
from tests.gpu.__main__ import main
from tests.support.happens_before import CheckedDevice, settled

CPU = torch.device("cpu")


def small(patch: pytest.MonkeyPatch, module: Any, **sizes: Any) -> None:
    for name, size in sizes.items():
        patch.setattr(module, name, size)


def test_times_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, overhead, TURNS=1, MICROBATCHES=2)
    small(monkeypatch, overlap, TURNS=1, RANKS=2, OF_RANKS=4)
    shown, fine = overhead.run(CPU)
    assert fine and "64 x 64, F, I, W" in shown and " 48 " in shown
    shown, fine = overlap.run(CPU)
    assert fine and "messages of 2 ranks, 1F1B" in shown


def test_memory_is_held_against_the_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, memory, SCHEDULES=("zb_h1", "dualpipe"), RANKS=2, MICROBATCHES=4)
    shown, fine = memory.run(CPU)
    assert fine and "WRONG" not in shown, shown
    monkeypatch.setattr(memory, "SCHEDULES", ("gpipe",))
    usual = memory.measured
    monkeypatch.setattr(memory, "measured", lambda *of: usual(*of)._replace(activation=1, beside=1))
    shown, fine = memory.run(CPU)
    assert not fine and "WRONG" in shown


def test_graphs_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that keeps what it was given, and gives it to itself again."""
    device = CheckedDevice()

    def watched(plan: Any, rank: Any, _: Any) -> Any:
        def body(transport: Any) -> Any:
            with device.watching():
                return rank(transport)

        return run_local(plan, body, "cpu")

    monkeypatch.setattr(local, "accelerator_of", lambda _: device)
    monkeypatch.setattr(private, "LAZY", set[str]())
    monkeypatch.setattr(graphs, "run_local", watched)
    small(monkeypatch, graphs, TURNS=1, RANKS=2, MICROBATCHES=4)
    for name in ("zb_v", "deepseek_v3"):
        with device.watching():
            worst, _, _ = graphs.compared(name, CPU)
        assert worst <= graphs.CLOSE
    settled(device)
    assert graphs.run(CPU)[1]


@pytest.mark.gpu
@pytest.mark.timeout(600)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu() -> None:
    assert main(["--device", "cuda"]) == 0
