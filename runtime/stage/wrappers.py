"""What torch's data parallelism has made of a stage's module. In comes the module as the user gave
it; out comes the module to run, and the `DistributedDataParallel` that was around it. A stage's
micro-batches run without that: its forward would broadcast buffers and wait for one backward of its
own, while a stage has many. Its gradients are averaged once per step (`data_parallel`).

What cannot be right under a plan is refused here, by name.
"""

import sys
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stretto.runtime.errors import PipelineError


def unwrapped(module: nn.Module, label: str) -> tuple[nn.Module, DistributedDataParallel | None]:
    """The module to run, and what was around it. Raises `PipelineError`, naming the stage by
    `label`, where it is wrapped in what this runtime cannot do right."""
    around = module if isinstance(module, DistributedDataParallel) else None
    if around is not None:
        _refuse_features(around, label)
        module = around.module
    for path, part in module.named_modules():
        where = f"`{path}` of {label}" if path else label
        if isinstance(part, DistributedDataParallel):
            raise PipelineError(
                f"{where} is wrapped in DistributedDataParallel, and what is around it is not: "
                "wrap the whole stage (a compiled module too: inside, as "
                "`DistributedDataParallel(torch.compile(stage))`)"
            )
        if _is_fsdp1(part):
            raise PipelineError(
                f"{where} is wrapped in FullyShardedDataParallel (FSDP1), which reduces gradients "
                "with every backward, and a stage has many: use "
                "`torch.distributed.fsdp.fully_shard`"
            )
        if _is_composable_replicate(part):
            raise PipelineError(
                f"{where} went through torch's composable `replicate`, whose hooks would average "
                "gradients with every micro-batch: wrap the stage in DistributedDataParallel, or "
                "give the executor `replicas=`"
            )
    return module, around


def sharded_parts(module: nn.Module) -> list[Any]:
    """The modules in it that FSDP2's `fully_shard` was called on, the outermost first. Where nobody
    has imported it, there are none."""
    loaded = sys.modules.get("torch.distributed.fsdp")
    kind = getattr(loaded, "FSDPModule", None)
    return [] if kind is None else [part for part in module.modules() if isinstance(part, kind)]


def _refuse_features(ddp: DistributedDataParallel, label: str) -> None:
    """Raises `PipelineError` for an option of DistributedDataParallel that would not be kept."""
    found: Any = ddp
    for told, there, instead in (
        ("static_graph=True", found.static_graph, "leave it out: every graph is right here"),
        ("a communication hook", _has_hook(found), "gradients are averaged as they are"),
        ("mixed_precision", found.mixed_precision is not None, "use autocast in the stage"),
        (
            "delay_all_reduce_named_params",
            getattr(found, "_delay_all_reduce_all_params", False)
            or bool(getattr(found, "_delay_all_reduce_params", ())),
            "leave it out: all gradients are averaged once, after the step's last",
        ),
        (
            "the Python reducer (torch._dynamo.config.optimize_ddp)",
            getattr(found, "_use_python_reducer", False),
            "compile the stage itself, as `DistributedDataParallel(torch.compile(stage))`",
        ),
        (
            "a forward of its own",
            type(found).forward is not DistributedDataParallel.forward,
            "put it into the module inside",
        ),
    ):
        if there:
            raise PipelineError(
                f"{label} is wrapped in DistributedDataParallel with {told}, which a stage of a "
                f"pipeline cannot keep: {instead}"
            )


def _has_hook(ddp: Any) -> bool:
    return bool(ddp._comm_hooks) or bool(ddp._get_ddp_logging_data().get("comm_hook"))


def _is_fsdp1(module: nn.Module) -> bool:
    """Without importing it: where nobody has, no module is one."""
    loaded = sys.modules.get("torch.distributed.fsdp")
    kind = getattr(loaded, "FullyShardedDataParallel", None)
    return kind is not None and isinstance(module, kind)


def _is_composable_replicate(module: nn.Module) -> bool:
    """The one made of DistributedDataParallel. (Later releases have one of FSDP2's parts, by the
    same name; its modules are FSDP2's.)"""
    loaded = sys.modules.get("torch.distributed._composable.replicate")
    kind = getattr(loaded, "DDP", None)
    return kind is not None and isinstance(module, kind)
