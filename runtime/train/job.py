"""What a training is asked for, where a rank of it runs, and what comes of it: values that the
command line, the loop and the launcher hand to each other."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple

import torch

from stretto.runtime.coordination.store import Store
from stretto.runtime.train.early import EarlyWatch
from stretto.runtime.transport import Transport

AMP = ("bfloat16", "float16")
"""What `--amp` may be."""


class TrainingJob(NamedTuple):
    """What was asked for on the command line: the path of the plan; `MODULE:NAME` of the model, its
    data and its evaluation data; how many steps, a step being one update of the weights by
    `accumulate` batches; whether to verify the first and to trust the plan; the timeout in seconds;
    the greatest norm of the gradients; every how many steps to print a line (None: a few times a
    second) and to evaluate; the seed; the type of lower precision; what a loss or a gradient that
    is no number does; the folder of checkpoints, every how many steps one is written (None: at the
    end alone), how many are kept, and whether to go on from the newest; and whether messages are
    checked on their way; and where ranks compute, `cpu` or
    `cuda` (None: on GPUs where each has its own)."""

    plan: str
    model: str
    data: str | None
    steps: int
    verify: bool
    trust: bool
    timeout: float
    eval_data: str | None = None
    accumulate: int = 1
    clip: float | None = None
    log_every: int | None = None
    eval_every: int | None = None
    seed: int | None = None
    amp: str | None = None
    on_nonfinite: Literal["stop", "warn"] = "stop"
    checkpoint: str | None = None
    checkpoint_every: int | None = None
    keep: int = 3
    resume: bool = False
    device: str | None = None
    check_messages: bool = False


class TrainingReport(NamedTuple):
    """Rank 0's: the mean loss of every step, the line that sums it up, and whether the gradients
    were those of one process (None where nobody asked)."""

    losses: list[float]
    summary: str
    verified: bool | None


class RankProcess(NamedTuple):
    """Where a rank runs: its number, the device of its modules, and where it is not an ordinary
    process of a group, its store and transport. `building` is held while modules are built: ranks
    that share a process share its modules and random numbers; `taken` has the ids of the tensors
    that its ranks train, where there are several. `early` watches over a process until there is an
    executor."""

    rank: int
    device: torch.device
    store: Store | None = None
    transport: Transport | None = None
    building: AbstractContextManager[object] = nullcontext()  # it has no state
    early: EarlyWatch | None = None
    taken: set[int] | None = None
