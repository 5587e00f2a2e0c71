"""The runtime: runs plans with PyTorch.

In comes a plan (`compiler.plan`), a rank's modules and a loss; out come gradients, outputs and
losses, bit for bit those of one process that adds in the plan's order. It decides nothing: the
order, the messages and the buffers all stand in the plan. `stages_of` says which stages a rank
holds, `Executor` runs a rank, `run_local` all ranks as threads of one process, `capture` makes one
CUDA graph of their step; `clip_grad_norm_`
clips over all of them, `GradScaler` scales their losses; `Model` is what `stretto run` trains;
every failure is a `PipelineError`, which `report_errors` tells once for all ranks.

From the bottom up: `containers`, `chunks`, `batch`, `given` (what a step is given); `topology`,
`rank_program`, `tensor_spec`; `transport` (tensors between ranks); `stage` (a module at work);
`coordination` (what ranks tell each other besides tensors); `parameters`; `ties` (parameters that
stand in several places: `declared_ties`, `shared_memory`, `untied`), `holders`, `replicas`;
`agreement`, `interpreter`; `exchange` (numbers between steps), `nonfinite`; `executor`; `clip`,
`copies`, `scaler`; `local`; `graphs`; `train` (the command line).

Names are loaded when they are used, so that a mistake in a command line is reported before torch is
imported.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stretto.runtime import checkpoint as checkpoint
    from stretto.runtime.batch import Arguments as Arguments
    from stretto.runtime.clip import clip_grad_norm_ as clip_grad_norm_
    from stretto.runtime.clip import get_total_norm as get_total_norm
    from stretto.runtime.collectives import all_to_all as all_to_all
    from stretto.runtime.collectives import as_stream_group as as_stream_group
    from stretto.runtime.collectives import stream_group as stream_group
    from stretto.runtime.containers import MicrobatchList as MicrobatchList
    from stretto.runtime.copies import check_copies as check_copies
    from stretto.runtime.errors import NonFiniteError as NonFiniteError
    from stretto.runtime.errors import PipelineError as PipelineError
    from stretto.runtime.errors import StepRefused as StepRefused
    from stretto.runtime.errors import Stopped as Stopped
    from stretto.runtime.executor import Executor as Executor
    from stretto.runtime.executor import ExecutorOptions as ExecutorOptions
    from stretto.runtime.graphs import CapturedStep as CapturedStep
    from stretto.runtime.graphs import capture as capture
    from stretto.runtime.local import run_local as run_local
    from stretto.runtime.placement import HeldStage as HeldStage
    from stretto.runtime.placement import stage_counts as stage_counts
    from stretto.runtime.placement import stages_of as stages_of
    from stretto.runtime.scaler import GradScaler as GradScaler
    from stretto.runtime.train.model import Model as Model
    from stretto.runtime.train.own_loop import report_errors as report_errors
    from stretto.runtime.train.update import StepDone as StepDone
    from stretto.runtime.train.verify import verify as verify

_WHERE = {
    "Arguments": "stretto.runtime.batch",
    "CapturedStep": "stretto.runtime.graphs",
    "Executor": "stretto.runtime.executor",
    "ExecutorOptions": "stretto.runtime.executor",
    "GradScaler": "stretto.runtime.scaler",
    "HeldStage": "stretto.runtime.placement",
    "MicrobatchList": "stretto.runtime.containers",
    "Model": "stretto.runtime.train.model",
    "NonFiniteError": "stretto.runtime.errors",
    "PipelineError": "stretto.runtime.errors",
    "StepDone": "stretto.runtime.train.update",
    "StepRefused": "stretto.runtime.errors",
    "Stopped": "stretto.runtime.errors",
    "all_to_all": "stretto.runtime.collectives",
    "as_stream_group": "stretto.runtime.collectives",
    "capture": "stretto.runtime.graphs",
    "check_copies": "stretto.runtime.copies",
    "clip_grad_norm_": "stretto.runtime.clip",
    "get_total_norm": "stretto.runtime.clip",
    "report_errors": "stretto.runtime.train.own_loop",
    "run_local": "stretto.runtime.local",
    "stage_counts": "stretto.runtime.placement",
    "stages_of": "stretto.runtime.placement",
    "stream_group": "stretto.runtime.collectives",
    "verify": "stretto.runtime.train.verify",
}
__all__ = [
    "Arguments",
    "CapturedStep",
    "Executor",
    "ExecutorOptions",
    "GradScaler",
    "HeldStage",
    "MicrobatchList",
    "Model",
    "NonFiniteError",
    "PipelineError",
    "StepDone",
    "StepRefused",
    "Stopped",
    "all_to_all",
    "as_stream_group",
    "capture",
    "check_copies",
    "clip_grad_norm_",
    "get_total_norm",
    "report_errors",
    "run_local",
    "stage_counts",
    "stages_of",
    "stream_group",
    "verify",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "checkpoint":  # a room, not a name of this one
        return import_module(f"{__name__}.checkpoint")
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
