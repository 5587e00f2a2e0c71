"""Saving and loading. In come one executor and what it trains with; all ranks call together."""

import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from secrets import token_hex
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from stretto.runtime.checkpoint import folders
from stretto.runtime.checkpoint.contents import (
    WRITTEN,
    CheckpointTable,
    Held,
    Stateful,
    compare_ties,
    table,
    take,
    wanted,
)
from stretto.runtime.checkpoint.damage import (
    NamingReader,
    compare_files,
    is_damage,
    read_table,
    way_out,
    why,
)
from stretto.runtime.checkpoint.names import model_names
from stretto.runtime.checkpoint.running_means import reconcile
from stretto.runtime.coordination.failure import ending
from stretto.runtime.errors import PipelineError
from stretto.runtime.executor import Executor
from stretto.runtime.transport.local import Local

Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer]
FORMAT = 1
warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")


def latest(folder: str | os.PathLike[str]) -> int | None:
    """The step of the newest whole checkpoint below the folder; None where there is none."""
    steps = folders.steps_in(Path(folder))
    return steps[-1] if steps else None


def save(
    executor: Executor,
    folder: str | os.PathLike[str],
    step: int,
    optimizers: Optimizers = (),
    *,
    extra: Mapping[str, Stateful] | None = None,
    own: Mapping[str, Stateful] | None = None,
    keep: int = 3,
) -> None:
    """Writes the checkpoint of `step` below the folder, which all ranks can reach, and removes all
    but the newest `keep`. Every rank calls it, at the same step; with data-parallel replicas all
    processes. `extra`: what else has a state, by name, the same on every rank: schedulers, a
    scaler, a loader of data; `own`: what has one on each rank.

    Running means of copies are made equal (`running_means`). Raises `PipelineError`; what was there
    before is still there then.
    """
    if keep < 1:
        raise PipelineError(f"keep={keep}: at least the newest checkpoint is kept")
    reconcile(executor.replicas)
    held = _held(executor, optimizers, extra or {}, own or {})
    progress: dict[str, Any] = {"format": FORMAT, "step": step, "processes": _processes(executor)}
    progress["ties"] = held.names.ties
    progress["written"] = _exchange(executor, token_hex(8))[0]
    root, first = Path(folder), held.process == 0
    what = f"the checkpoint of step {step} was not written"
    failure, rows = None, {}
    try:
        if first:
            folders.begin(root, step)
        rows = table(held, progress)
    except Exception as error:  # a user's `state_dict` can raise anything
        failure = why(error)
    _end_together(executor, failure, what)  # before ranks wait for each other in torch
    try:
        with _together(executor, f"writes the checkpoint of step {step} with other ranks"):
            _write(executor, rows, folders.partial_of(root, step))
            if first:
                folders.finish(root, step, keep)
    except (Exception, CheckpointException) as error:  # the latter is none of the former
        failure = why(error)
        if first:
            shutil.rmtree(folders.partial_of(root, step), ignore_errors=True)
    _end_together(executor, failure, what)


def load(
    executor: Executor,
    folder: str | os.PathLike[str],
    optimizers: Optimizers = (),
    *,
    step: int | None = None,
    extra: Mapping[str, Stateful] | None = None,
    own: Mapping[str, Stateful] | None = None,
) -> int | None:
    """Reads the checkpoint of `step`, by default the newest, into the executor's modules, the
    optimizers, `extra` and `own`; returns its step, None where there is no checkpoint. The plan
    may be another than the one that saved it, on another number of ranks; then random states are
    left as they are. Raises `PipelineError` where the checkpoint does not fit, or cannot be read;
    the modules may then be half read.
    """
    root = Path(folder)
    found = _exchange(executor, latest(root) if step is None else step)[0]
    if found is None:
        return None
    where = folders.folder_of(root, found)
    failure = None
    held = _held(executor, optimizers, extra or {}, own or {})
    try:
        with _together(executor, "reads a checkpoint"):
            _read(executor, held, where, found)
    except (Exception, CheckpointException) as error:  # the latter is none of the former
        failure = why(error)
        if is_damage(error):
            failure += f"; {way_out(root, found)}"
    _end_together(executor, failure, f"the checkpoint {where} cannot be loaded")
    return int(found)


def _read(executor: Executor, held: Held, where: Path, step: int) -> None:
    if not where.is_dir():
        raise PipelineError("it is not there")
    reader = NamingReader(where)
    there = read_table(reader, where)
    read = wanted(held, there)
    state_dict_loader.load(
        read,
        storage_reader=reader,
        planner=DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
        no_dist=True,
    )
    if read["progress"].get("format") != FORMAT:
        raise PipelineError("it is of another format")
    words = {key: read.pop(key) for key in list(read) if key.startswith(WRITTEN)}
    compare_files(there, {**words, "progress": read["progress"].get("written")} if words else {})
    if read["progress"]["step"] != step:
        raise PipelineError(
            f"it was written after step {read['progress']['step']}; give its folder that name again"
        )
    compare_ties(held.names, read["progress"])
    if read["progress"]["processes"] != _processes(executor):
        read.pop(f"random.{held.process}", None)
    take(held, read)


def _held(
    executor: Executor,
    optimizers: Optimizers,
    extra: Mapping[str, Stateful],
    own: Mapping[str, Stateful],
) -> Held:
    given = (optimizers,) if isinstance(optimizers, torch.optim.Optimizer) else tuple(optimizers)
    process = executor.rank if _is_local(executor) else dist.get_rank()
    return Held(model_names(executor), given, extra, own, process)


def _is_local(executor: Executor) -> bool:
    return isinstance(executor.context.transport, Local)


def _processes(executor: Executor) -> int:
    return executor.world if _is_local(executor) else dist.get_world_size()


def _write(executor: Executor, rows: CheckpointTable, where: Path) -> None:
    """Ranks that are threads hand all they have to the first."""
    local = _is_local(executor)
    if local:
        every = _exchange(executor, rows)
        if executor.rank:
            return
        rows = {key: value for rows in reversed(every) for key, value in rows.items()}
    state_dict_saver.save(
        rows,
        storage_writer=FileSystemWriter(where),
        planner=DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
        no_dist=local,
    )


def _exchange(executor: Executor, value: Any) -> list[Any]:
    """What all processes give, in their order."""
    transport = executor.context.transport
    doing = "waits for other ranks at a checkpoint"
    if isinstance(transport, Local):
        with _together(executor, doing):
            return transport.gather(value)
    every: list[Any] = [None] * dist.get_world_size()
    others = _others(executor)
    try:
        with _together(executor, doing):
            dist.all_gather_object(every, value)
    except RuntimeError as error:  # a connection is lost
        end = ending(executor.peers, doing, others, error)
        executor.broken = end.reason
        raise end.error from end.cause
    return every


def _others(executor: Executor) -> list[int]:
    return [rank for rank in range(executor.world) if rank != executor.rank]


def _together(executor: Executor, doing: str) -> AbstractContextManager[None]:
    """Around what all ranks do at a checkpoint: a disk may be slow, but one whose process has ended
    or is stopped is not waited for."""
    return executor.activity.waiting(doing, *_others(executor), patient=True)


def _end_together(executor: Executor, failure: str | None, what: str) -> None:
    """Raises `PipelineError` on all processes where one of them failed: with its reason."""
    for process, reason in enumerate(_exchange(executor, failure)):
        if reason is not None:
            raise PipelineError(f"{what}: rank {process}: {reason}")
