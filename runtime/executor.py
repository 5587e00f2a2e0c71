"""Runs a plan on one rank. In comes a plan, this rank's stage modules and the loss; every `step`
takes the whole batch and leaves gradients in `.grad`, every `eval` runs the forwards alone. What
happens in which order stands in the plan; here it is only prepared for, once, and its end reported.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypedDict, Unpack

import torch
import torch.distributed as dist
from torch import nn

from stretto.compiler.plan.plan import Plan, read_plan
from stretto.compiler.program.program import NONE, ProgramName
from stretto.runtime.activity import Activity, watched
from stretto.runtime.collective_peers import CollectiveGroups, CollectivePeers
from stretto.runtime.coordination.failure import Ending, ending, listen, post_failure
from stretto.runtime.coordination.peers import Peers
from stretto.runtime.coordination.store import Store, store_of
from stretto.runtime.coordination.watchdog import Watchdog
from stretto.runtime.data_parallel.synchronization import DataParallel, require_processes
from stretto.runtime.declared_ties import TieTable
from stretto.runtime.errors import NonFiniteError, PipelineError, StepRefused, words_of
from stretto.runtime.exchange import Exchange
from stretto.runtime.given import StepArguments, Weight, batch_options
from stretto.runtime.interpreter import BoundProgram, Interpreter, bound_program
from stretto.runtime.issuing import run_list
from stretto.runtime.last_words import last_words, neighbours_of, page_of
from stretto.runtime.loss_scaler import LossScaler
from stretto.runtime.microbatches import (
    Wanted,
    fill,
    merged_outputs,
    microbatches,
    shares_by_name,
)
from stretto.runtime.nonfinite import OnNonFinite, watch_of
from stretto.runtime.parameters import named_parameters, owned
from stretto.runtime.preparation import preparation
from stretto.runtime.rank_context import RankContext
from stretto.runtime.rank_program import plan_for_rank
from stretto.runtime.recut import Recut, StepMicrobatches
from stretto.runtime.replicas import Replicas, lanes
from stretto.runtime.slices import slicing_of
from stretto.runtime.stage.chains import part_chains
from stretto.runtime.stage.from_user import Loss, device_of, stage_modules
from stretto.runtime.stage.judge import LossShare
from stretto.runtime.streams.device import DeviceStreams
from stretto.runtime.streams.host import FirstFailure, HostStreams
from stretto.runtime.streams.marks import DeviceMarks
from stretto.runtime.ties import agree_on_ties, tied
from stretto.runtime.transport import Transport
from stretto.runtime.transport.choose import transport_of
from stretto.runtime.transport.local import Local

Around = Callable[[Interpreter], AbstractContextManager[Any]]
"""What is around the list of a step, which is about to run."""


class ExecutorOptions(TypedDict, total=False):
    """The keywords of `Executor`; each may be left out."""

    group: dist.ProcessGroup | None
    """The process group whose ranks the plan's ranks are; by default all processes."""

    replicas: Any
    """The processes that hold the same stages in other pipelines, whose gradients are averaged: a
    process group, or one dimension of a `DeviceMesh`. Stages that DistributedDataParallel or
    `fully_shard` has wrapped bring their own."""

    collectives: CollectiveGroups
    """The processes with which this one exchanges data inside stages, as experts do: those that
    hold the same stages in other pipelines and run the same plan. A process group, of which every
    stream of the plan is given one of its own (`stream_group`); or, needed on GPUs, a dict of such
    groups by the stream's name."""

    transport: Transport | None
    """How tensors travel; by default NCCL on GPUs, else gloo. `run_local` gives one."""

    store: Store | None
    """Where the ranks meet; by default the group's, or that of a local transport."""

    scale_loss: bool | Weight | Mapping[str, Weight]
    """Divide every micro-batch's loss by their number before its backward, so that gradients are
    those of the mean; by default true. A function `weight(target)` instead (a dict by pipeline
    where models differ) gives each micro-batch's weight, of 0 or more: its loss counts by weight /
    sum of the weights of all the model's micro-batches, as for a mean over tokens."""

    args_chunk_spec: Any
    """How positional arguments are cut: torch's `TensorChunkSpec(dim)` or `_Replicate` for each, in
    a tuple, or one for all. By default tensors are cut along dimension 0, those without dimensions
    and all that is no tensor go to every micro-batch whole. A dict by pipeline where models
    differ, as each of these specs."""

    kwargs_chunk_spec: Any
    """Likewise keywords, in a dict."""

    target_chunk_spec: Any
    """Likewise the target, in its structure."""

    stage_kwargs_chunk_spec: Any
    """Likewise `stage_kwargs`, by stage and keyword."""

    output_merge_spec: Any
    """How outputs are merged, in the structure of the output; by default along dimension 0."""

    ragged: bool
    """Take batches whose rows do not divide by the number of micro-batches, and cut them as
    `torch.tensor_split` does; `scale_loss=True` then counts each loss by its micro-batch's rows. By
    default false: such a batch is refused."""

    ties: TieTable | None
    """Parameters that stand in several places: by any name for it the places of each, as `(stage,
    name)`, or with several models `(pipeline, stage, name)`; a stage below 0 counts from the end.
    Modules may declare them themselves (`tied`), and what is one object on a rank is one. Without
    `ties` what only looks like a tie is refused or warned of; `{}` says that there is no other."""

    build_stage: Callable[[str, int], nn.Module] | None
    """Builds any stage, of a pipeline's name and a stage's number. Rank 0 asks it where parameters
    of several stages start equal: they are tied if they are one object in what it builds."""

    on_nonfinite: OnNonFinite
    """What to do where a loss is NaN or infinite: "stop" raises `NonFiniteError` on every rank, at
    the end of the step; "warn" warns on rank 0, and a function is called there with the message.
    It names the first tensor on the way to the loss that is not finite. By default nothing is
    looked at. Costs a look through every stage's output, and an exchange between all ranks at the
    end of each step."""

    slice_dim: int
    """Along which dimension a plan with slices cuts each micro-batch; by default 1, the sequence of
    tensors that begin with the batch."""

    slice_lengths: Sequence[int] | None
    """The lengths of a micro-batch's slices, by default equal. A slice's loss counts by its
    length."""

    timeout: float
    """Seconds to wait for other ranks; by default 60."""

    trust: bool
    """Do not prove the plan; by default false."""

    check_messages: bool
    """Send before every message its number, operation, shapes and types, in 256 bytes, and compare
    them where it arrives; by default false."""


class Executor:
    """One rank's part of a plan, ready to run.

    `plan`: a plan or the path of its file. `stages`: this rank's modules, as a dict by
    `(pipeline, stage)` or by stage, as a list by ascending stage, or as torch's `PipelineStage`
    objects. `loss_fn(output, target)`: needed where this rank has a last stage; a dict by pipeline
    where models differ. Keywords: see `ExecutorOptions`.

    All ranks must make their executor before any of them goes on. Raises `PipelineError`, and
    `Rejected` or `OSError` where the plan cannot be read.
    """

    def __init__(
        self,
        plan: Plan | str | os.PathLike[str],
        stages: Mapping[Any, Any] | Sequence[Any],
        loss_fn: Loss = None,
        **options: Unpack[ExecutorOptions],
    ):
        _check_keywords(options)
        group = options.get("group")
        transport = options.get("transport") or transport_of(group, device_of(stages))
        store = options.get("store") or store_of(group, transport)
        self.rank, self.world = transport.rank, transport.world
        page = page_of(transport)
        near = neighbours_of(plan, store, transport, page)
        self.peers = Peers(self.rank, self.world, store, options.get("timeout", 60.0), near)
        self.batching = batch_options(options)
        self.shares: dict[str, list[LossShare]] = {}  # of the last step's losses, by pipeline
        self.bound: dict[ProgramName, BoundProgram] = {}
        self.broken = ""  # why no step can be taken any more
        self.gathered, self.gather_lanes = 0, NONE  # of `train.gather`
        device = transport.accelerator
        marks = self.marks = None if device is None else DeviceMarks(device)
        self.activity = Activity(page, marks)
        self.exchange = Exchange(self.peers, transport, self.activity)
        self.scaler: LossScaler | None = None
        self.device_streams: DeviceStreams | None = None
        self.around: Around = nullcontext  # a step's list; a capture puts itself there
        listen(self.peers)
        self.watchdog = Watchdog(self.peers, watched(self.activity), transport.abort)
        try:
            own = plan_for_rank(plan, self.rank, self.world)
            self.stages = stage_modules(own, stages, loss_fn)
            chains = part_chains(own, self.stages)
            context = RankContext(own, self.stages, transport, page, chains)
            self.context = _meet(plan, context, self.peers, options)
            self.collectives = _meet_collectives(self, options)
            self.plan = self.context.plan
            self.recut = Recut(self.plan.graph, self.batching)
            self.replicas = Replicas(self.context)
            self.replicas.broadcast_weights(self.peers)
            checks = options.get("check_messages", False)
            self.preparation = preparation(self.context, self.activity, self.peers, checks)
            self.watch = watch_of(self.context, self.peers, self.exchange, options)
            self.data_parallel = _meet_replicas(self.context, self.activity, self.peers, options)
        except Exception as error:
            self.watchdog.stop()
            post_failure(store, self.rank, words_of(error))
            raise
        self.activity.finish()

    def no_sync(self) -> AbstractContextManager[None]:
        """Around steps whose gradients are not averaged over the replicas yet: they add up in
        `.grad`, each replica's own, and the next step outside averages the sum."""
        return self.data_parallel.without()

    def step(
        self,
        *args: Any,
        target: Any = None,
        losses: Any = None,
        return_outputs: bool = True,
        loss_kwargs: Mapping[str, Any] | None = None,
        stage_kwargs: Mapping[Any, Mapping[str, Any]] | None = None,
        metrics: Any = None,
        weight_total: Any = None,
        **kwargs: Any,
    ) -> Any:
        """One training step on the whole batch; gradients are added to `.grad`. Arguments and
        target are given on every rank that has a first or a last stage, and cut into micro-batches;
        see `StepArguments` for what they may be.

        Returns the output, merged in the order of the micro-batches, where this rank has a last
        stage (a dict by pipeline where it has several), else None. `losses` and `metrics`, lists,
        are cleared and filled with what the loss function gave for this rank's micro-batches in
        their order; dicts, by pipeline. Raises `PipelineError`: a `StepRefused` where some rank's
        batch is wrong, on all ranks and before anything was sent, so that all may try another;
        after any other the executor cannot be used.
        """
        if self.scaler is not None:
            self.scaler.before_step()
        given = StepArguments(args, kwargs, target, stage_kwargs, loss_kwargs, weight_total)
        return self._take_step("train", given, Wanted(losses, metrics, return_outputs))

    def eval(
        self,
        *args: Any,
        target: Any = None,
        losses: Any = None,
        return_outputs: bool = True,
        loss_kwargs: Mapping[str, Any] | None = None,
        stage_kwargs: Mapping[Any, Mapping[str, Any]] | None = None,
        metrics: Any = None,
        **kwargs: Any,
    ) -> Any:
        """The forwards alone, as `step`; gradients stay untouched. Without `target` there are no
        losses. The modules' mode (`module.eval()`) is the caller's."""
        given = StepArguments(args, kwargs, target, stage_kwargs, loss_kwargs)
        with torch.no_grad():
            return self._take_step("eval", given, Wanted(losses, metrics, return_outputs))

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What this rank has to optimize, each parameter once, as `main[3].up.weight`."""
        return named_parameters(self.plan.graph, self.stages)

    def parameters(self) -> Iterator[nn.Parameter]:
        """What this rank's optimizer should be given: its parameters, each once."""
        return (parameter for _, parameter in self.named_parameters())

    def owned_parameters(self) -> list[nn.Parameter]:
        """Those for which this rank counts in a sum over all ranks, as a norm: each once there."""
        return owned(self.plan.graph, self.stages)

    def close(self) -> None:
        """Ends the threads that watch."""
        self.watchdog.stop()
        self.data_parallel.peers.close()
        self.collectives.close()

    def _take_step(self, name: ProgramName, given: StepArguments, wanted: Wanted) -> Any:
        if broken := self.broken or self.exchange.broken:
            raise PipelineError(f"this executor has stopped before: {broken}")
        with self.activity.step(name):
            try:
                run = _prepare(self, name, given, wanted)
            except StepRefused:
                raise
            except PipelineError as error:
                _give_up(self, error)
                raise
            with self.around(run):
                _run(self, run)
        return _finish(self, run, wanted)


def _prepare(
    executor: Executor, name: ProgramName, given: StepArguments, wanted: Wanted
) -> Interpreter:
    """All ranks' agreement on the step, and what runs it here."""

    def cut() -> StepMicrobatches:
        wanted.check()
        if name not in executor.plan.programs:
            if executor.plan.no_evaluation:
                raise PipelineError(f"this plan has no evaluation: {executor.plan.no_evaluation}")
            raise PipelineError(
                "this plan has only its forwards: call `eval`, or compile it without --forward-only"
            )
        again = executor.recut.again(name, given)
        if again is not None:
            return again
        own = microbatches(executor.plan, executor.stages, name, given, executor.batching)
        return executor.recut.learn(name, given, own)

    step = executor.preparation.begin(name, cut, wanted.outputs)
    bound = executor.bound.get(name)
    if bound is None:
        context = executor.context
        bound = executor.bound[name] = bound_program(context, context.plan.programs[name])
    return Interpreter(executor.context, executor.replicas, executor.data_parallel, bound, step)


def _give_up(executor: Executor, error: PipelineError) -> None:
    """Before the step, since the ranks cannot agree on it any more."""
    executor.broken = str(error)
    message = f"rank {executor.rank} cannot begin the step: {error}"
    post_failure(executor.peers.store, executor.rank, message)
    executor.data_parallel.fail(message)
    executor.collectives.tell(message)


def _run(executor: Executor, run: Interpreter) -> None:
    """Runs the list. Where it fails, tells the other ranks, and raises `PipelineError`."""
    try:
        if run.train:
            executor.replicas.set_gradients_aside()
            if executor.watch is not None:
                executor.watch.begin()
                run.note = executor.watch.note
        executor.activity.run = run
        run.marks = executor.marks
        if run.program.streams:
            _give_streams(executor, run)
        run_list(run)
    except Exception as error:
        end = _ended(executor, run, error)
        raise end.error from end.cause


def _give_streams(executor: Executor, run: Interpreter) -> None:
    """On a GPU its streams, the same for all steps; on the CPU threads. Where one of those fails
    while the step's thread waits inside a backend, the process ends."""
    names, device = executor.plan.spec.streams, executor.context.transport.accelerator
    if device is not None:
        if executor.device_streams is None:
            executor.device_streams = DeviceStreams(device, len(names))
        run.device = executor.device_streams
        return

    def waits() -> bool:
        return bool(executor.activity.awaited_by(run.views[0]))

    def stuck(failure: FirstFailure) -> None:
        if isinstance(failure.error, Exception):
            end = _ended(executor, run, failure.error)
            executor.context.transport.abort(str(end.error))

    host = run.host = HostStreams(names, run.program.awaited)
    host.timeout, host.waits, host.stuck = executor.peers.timeout, waits, stuck


def _ended(executor: Executor, run: Interpreter, error: Exception) -> Ending:
    """Tells the other ranks why the step has ended, and what to raise."""
    executor.activity.run = run
    failure = run.host.failure if run.host is not None else None
    view = run if failure is None else run.views[failure.stream]
    here = executor.activity.position_of([view])
    for stage in executor.stages.values():
        stage.forget()
    for chain in executor.context.chains.values():
        chain.forget()
    if isinstance(error, RuntimeError) and not isinstance(error, PipelineError):  # a collective's?
        error = executor.collectives.await_reason() or error
    where = here.where if isinstance(error, PipelineError) else here.where + view.handed
    when = f" at {executor.activity.when}"
    end = ending(executor.peers, where, here.waiting_for, error, when)
    executor.broken = end.reason
    executor.data_parallel.fail(end.reason)
    executor.collectives.tell(end.reason)
    return end


def _finish(executor: Executor, run: Interpreter, wanted: Wanted) -> Any:
    """Hands over what the list has left: losses and metrics, and the outputs, which are returned.
    Raises `NonFiniteError` where a loss is none and that was to stop the training."""
    graph, options = executor.plan.graph, executor.batching
    slicing = slicing_of(graph.spec, options.slice_dim, options.slice_lengths)
    executor.shares = shares_by_name(graph, run.step.microbatches, slicing)
    losses, outputs = run.losses, run.outputs
    if slicing is not None:
        shares = {p: own.shares for p, own in run.step.microbatches.items()}
        losses = {p: slicing.losses(own, shares[p]) for p, own in losses.items()}
        outputs = {p: slicing.outputs(own) for p, own in outputs.items()}
    fill(graph, losses, wanted.losses)
    fill(graph, run.metrics, wanted.metrics)
    if executor.watch is not None and run.train:
        try:
            executor.watch.end(run)
        except NonFiniteError as error:
            if executor.data_parallel.stages:  # whose gradients are none either, by their mean
                executor.broken = str(error)
                executor.data_parallel.fail(str(error))
            raise
    return merged_outputs(graph, outputs, options.output_merge_spec)


def _meet(
    plan: Plan | str | os.PathLike[str],
    context: RankContext,
    peers: Peers,
    options: ExecutorOptions,
) -> RankContext:
    """What is done once with all ranks: the handshake, which tells the ties of the model, and the
    lanes. Returns the context with the plan that has these ties."""
    if peers.neighbours is not None:
        peers.neighbours.announce()
    whole = None
    if peers.rank == 0 and not options.get("trust", False):
        whole = plan if isinstance(plan, Plan) else read_plan(plan)
    given = options.get("ties"), options.get("build_stage")
    ties = agree_on_ties(peers, context, whole, *given)
    context = context._replace(plan=tied(context.plan, ties))
    if peers.neighbours is not None:
        peers.neighbours.look()
        peers.neighbours.tell = last_words(plan, peers.world, ties)
    context.transport.open(lanes(context.plan))
    return context


def _meet_collectives(executor: Executor, options: ExecutorOptions) -> CollectivePeers:
    """What is done once with the processes that share this one's collectives. The executor's
    context is given the groups of its streams."""
    given, context = options.get("collectives"), executor.context
    if given is not None and isinstance(context.transport, Local):
        raise PipelineError("`collectives` needs a process for each rank: ranks here are threads")
    peers = CollectivePeers(context.plan, given, options.get("timeout", 60.0))
    executor.context = context._replace(groups=peers.meet(context.transport.device.type))
    peers.watch(watched(executor.activity, Activity.computing), context.transport.abort)
    return peers


def _meet_replicas(
    context: RankContext, activity: Activity, peers: Peers, options: ExecutorOptions
) -> DataParallel:
    """What is done once with the ranks that hold the same stages in other pipelines."""
    processes = not isinstance(context.transport, Local)
    require_processes(options.get("replicas"), processes)
    data_parallel = DataParallel(context, options.get("replicas"))
    group = options.get("group") or dist.group.WORLD
    try:
        pipeline = dist.get_process_group_ranks(group) if processes else ()
        data_parallel.peers.meet(data_parallel.stages, pipeline, peers.timeout)
        data_parallel.peers.watch(watched(activity), context.transport.abort)
        data_parallel.compare(peers)
        data_parallel.equalize()
    except Exception as error:
        data_parallel.fail(words_of(error))
        data_parallel.peers.close()
        raise
    return data_parallel


def _check_keywords(options: Mapping[str, object]) -> None:
    unknown = options.keys() - ExecutorOptions.__annotations__.keys()
    if unknown:
        names = ", ".join(sorted(unknown))
        raise TypeError(f"Executor() got an unexpected keyword argument: {names}")
