"""What torch finds on this machine, for `stretto doctor`: rows of a check, its state (`ok`,
`warning` or `problem`), what was found, and what to do."""

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
import torch.distributed as dist

Row = tuple[str, Literal["ok", "warning", "problem"], str, str]


def examine(environment: Mapping[str, str]) -> list[Row]:
    """All rows."""
    return [*_build(), *_gpus(environment)]


def _build() -> Iterator[Row]:
    kind = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    if not dist.is_available():
        advice = "install a build with torch.distributed"
        yield "torch's build", "problem", f"{kind}, without torch.distributed", advice
        return
    gloo = dist.is_gloo_available()
    yield (
        "torch's build",
        "ok" if gloo else "problem",
        f"{kind}, gloo {'there' if gloo else 'missing'}, "
        f"NCCL {'there' if dist.is_nccl_available() else 'missing'}",
        "" if gloo else "ranks on CPUs need a build with gloo",
    )


def _gpus(environment: Mapping[str, str]) -> Iterator[Row]:
    if torch.version.cuda is None:
        return
    if not torch.cuda.is_available():
        hidden = environment.get("CUDA_VISIBLE_DEVICES")
        why = f" (CUDA_VISIBLE_DEVICES is `{hidden}`)" if hidden is not None else ""
        advice = "ranks then run on the CPU; `nvidia-smi` says whether the driver works"
        yield "GPUs", "warning", f"none that can be used{why}", advice
        return
    count, here = torch.cuda.device_count(), environment.get("LOCAL_WORLD_SIZE", "")
    names = sorted({torch.cuda.get_device_name(device) for device in range(count)})
    if here.isdecimal() and int(here) > count:
        found = f"{count}, and {here} ranks on this machine"
        yield "GPUs", "warning", found, "ranks then run on the CPU: start one for each GPU"
    else:
        yield "GPUs", "ok", f"{count}: {', '.join(names)}", ""
    if dist.is_nccl_available():
        version = ".".join(map(str, torch.cuda.nccl.version()))  # pyright: ignore[reportAttributeAccessIssue]
        yield "NCCL", "ok", version, ""
    if environment.get("CUDA_DEVICE_MAX_CONNECTIONS") == "1":
        advice = "a receive that is posted early then holds up computations: unset it, or 32"
        yield "CUDA_DEVICE_MAX_CONNECTIONS", "warning", "1", advice
