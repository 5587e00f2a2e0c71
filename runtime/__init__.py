"""The runtime: runs plans with PyTorch.

In comes a plan (`compiler.plan`), a rank's modules and a loss; out come gradients, outputs and
losses, bit for bit those of one process that adds in the plan's order. It decides nothing: the
order, the messages and the buffers all stand in the plan. `Executor` runs a rank, `run_local` all
ranks as threads of one process, `Model` is what `stretto run` trains, and every failure is a
`PipelineError`.

From the bottom up: `batch`, `topology`, `rank_program`, `tensor_spec`; `transport` (tensors between
ranks); `stage` (a module at work); `coordination` (what ranks tell each other besides tensors);
`parameters`, `agreement`, `replicas`, `interpreter`; `executor`; `local`; `train` (the command
line).

Names are loaded when they are used, so that a mistake in a command line is reported before torch is
imported.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stretto.runtime.errors import PipelineError as PipelineError
    from stretto.runtime.errors import Stopped as Stopped
    from stretto.runtime.executor import Executor as Executor
    from stretto.runtime.executor import ExecutorOptions as ExecutorOptions
    from stretto.runtime.local import run_local as run_local
    from stretto.runtime.train.model import Model as Model
    from stretto.runtime.train.verify import verify as verify

_WHERE = {
    "Executor": "stretto.runtime.executor",
    "ExecutorOptions": "stretto.runtime.executor",
    "Model": "stretto.runtime.train.model",
    "PipelineError": "stretto.runtime.errors",
    "Stopped": "stretto.runtime.errors",
    "run_local": "stretto.runtime.local",
    "verify": "stretto.runtime.train.verify",
}
__all__ = [
    "Executor",
    "ExecutorOptions",
    "Model",
    "PipelineError",
    "Stopped",
    "run_local",
    "verify",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
