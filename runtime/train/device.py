"""Where a rank computes: on a GPU of its own, or on the CPU. In come what was asked for and what
the machine has, out comes a device."""

import torch

from stretto.compiler.diagnostics.wording import count
from stretto.runtime.aloud import caution
from stretto.runtime.errors import PipelineError


def rank_device(asked: str | None, local_rank: int, local_world: int) -> torch.device:
    """A GPU of its own where every rank of this machine can have one, else the CPU, which is told
    where there are GPUs, but too few. Raises `PipelineError` where GPUs are asked for and are not
    there."""
    there = 0 if asked == "cpu" else _gpus()
    if there >= local_world:
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        return device
    few = f"this machine has {count(there, 'GPU')} for its {count(local_world, 'rank')}"
    if asked == "cuda":
        raise PipelineError(f"--device cuda: {few}: each rank needs one of its own")
    if there and local_rank == 0:
        caution(f"{few}: computing on the CPU")
    return torch.device("cpu")


def shared_device(asked: str | None) -> torch.device:
    """That of ranks which are threads: the GPU where there is one, else the CPU. Raises as
    `rank_device`: `PipelineError` where a GPU is asked for and there is none."""
    there = asked != "cpu" and _gpus() > 0
    if asked == "cuda" and not there:
        raise PipelineError("--device cuda: this machine has no GPU that torch can use")
    return torch.device("cuda" if there else "cpu")


def _gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0
