"""`--device`: what is asked for is there, or it is said."""

import pytest
import torch

from stretto.runtime import PipelineError
from stretto.runtime.train.device import rank_device, shared_device


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with one GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    return monkeypatch


def test_each_rank_has_a_gpu_or_all_compute_on_the_cpu(
    gpus: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rank_device(None, 0, 1) == torch.device("cuda", 0)
    assert rank_device("cpu", 0, 1) == torch.device("cpu")
    assert not capsys.readouterr().err
    assert [rank_device(None, rank, 2).type for rank in (0, 1)] == ["cpu", "cpu"]
    told = "warning: this machine has 1 GPU for its 2 ranks: computing on the CPU\n"
    assert capsys.readouterr().err == told
    assert shared_device(None).type == "cuda"


def test_gpus_that_are_asked_for_and_are_not_there_are_told(gpus: pytest.MonkeyPatch) -> None:
    with pytest.raises(PipelineError, match="1 GPU for its 4 ranks: each rank needs one"):
        rank_device("cuda", 3, 4)
    gpus.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PipelineError, match="has no GPU that torch can use"):
        shared_device("cuda")
    assert shared_device(None).type == "cpu"
