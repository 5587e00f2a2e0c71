"""The transport that suits the process group and the device of the stages."""

import torch
import torch.distributed as dist

from stretto.runtime.errors import PipelineError
from stretto.runtime.transport import Transport
from stretto.runtime.transport.gloo import Gloo


def transport_of(group: dist.ProcessGroup | None, device: torch.device) -> Transport:
    """NCCL where the stages are on GPUs or the group is NCCL's, else gloo. Raises `PipelineError`
    where there is no process group."""
    require_process_group()
    if device.type != "cuda" and dist.get_backend(group) != "nccl":
        return Gloo(group)
    from stretto.runtime.transport.nccl import Nccl

    return Nccl(group)


def require_process_group() -> None:
    """Raises `PipelineError` where `torch.distributed` is not initialized."""
    if not dist.is_initialized():
        raise PipelineError(
            "there is no process group: start the script with torchrun and call "
            "`torch.distributed.init_process_group`, or use `run_local` for one process"
        )
