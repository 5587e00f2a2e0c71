"""Runs a plan on one rank. In comes a plan, this rank's stage modules and the loss; every `step`
takes the whole batch and leaves gradients in `.grad`, every `eval` runs the forwards alone. What
happens in which order stands in the plan; here it is only prepared for, once, and its end reported.
"""

import os
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

from stretto.compiler.plan.plan import Plan, read_plan
from stretto.compiler.program.program import NONE, ProgramName
from stretto.runtime.agreement import Agreement
from stretto.runtime.batch import merged
from stretto.runtime.errors import Stopped
from stretto.runtime.handshake import meet
from stretto.runtime.interpreter import Run
from stretto.runtime.microbatches import shares
from stretto.runtime.rank_program import Part, in_words, part_of, peers, ranks
from stretto.runtime.replicas import Replicas, lanes
from stretto.runtime.stage.from_user import Loss, device_of, stages_of
from stretto.runtime.stage.stage import Stage
from stretto.runtime.store import Board
from stretto.runtime.topology import Place, original
from stretto.runtime.transport import Transport
from stretto.runtime.transport.gloo import Gloo
from stretto.runtime.watchdog import Position, Watchdog

PATIENCE = 3.0  # seconds in which the reason of a lost connection may arrive


class Executor:
    """One rank's part of a plan, ready to run.

    `plan`: a plan or the path of its file. `stages`: this rank's modules, as a dict by
    `(pipeline, stage)` or by stage, as a list by ascending stage, or as torch's `PipelineStage`
    objects. `loss_fn(output, target)`: needed where this rank has a last stage; a dict by pipeline
    where models differ. `group`: the process group whose ranks the plan's ranks are. `scale_loss`:
    divide every micro-batch's loss by their number before its backward, so that gradients are
    those of the mean. `timeout`: seconds to wait for other ranks. `trust`: do not prove the plan.

    All ranks must make their executor before any of them goes on. Raises `Stopped`, and `Rejected`
    or `OSError` where the plan cannot be read.
    """

    def __init__(
        self,
        plan: Plan | str | os.PathLike[str],
        stages: Mapping[Any, Any] | Sequence[Any],
        loss_fn: Loss = None,
        *,
        group: dist.ProcessGroup | None = None,
        transport: Transport | None = None,
        board: Board | None = None,
        scale_loss: bool = True,
        timeout: float = 60.0,
        trust: bool = False,
    ):
        self.transport = transport or _transport(group, device_of(stages))
        self.rank, self.world = self.transport.rank, self.transport.world
        self.timeout, self.scale_loss = timeout, scale_loss
        self.run: Run | None = None
        self.steps = 0
        self.doing, self.busy = "makes its executor", True
        self.broken = ""
        self.gathered, self.gather_lanes = 0, NONE
        self.board = board or board_of(group, transport)
        self.board.listen = listening(self.board, self.rank)
        self.watchdog = Watchdog(
            self.board, self.rank, self.world, timeout, _position(self), self.transport.abort
        )
        try:
            self.part = own_part(plan, self.rank, self.world)
            self.stages: dict[Place, Stage] = stages_of(self.part, stages, loss_fn, scale_loss)
            self._meet(plan, trust)
        except Exception as error:
            self.watchdog.stop()
            post_failure(self.board, self.rank, str(error))
            raise
        self.doing, self.busy = "is between steps", False

    def _meet(self, plan: Plan | str | os.PathLike[str], trust: bool) -> None:
        whole = None
        if self.rank == 0 and not trust:
            whole = plan if isinstance(plan, Plan) else read_plan(plan)
        meet(self.board, self.rank, self.world, self.part.hash, whole, self.timeout)
        self.transport.open(lanes(self.part))
        self.replicas = Replicas(self.part, self.transport, self.stages)
        self.replicas.equalize(self.board, self.timeout)
        self.agreement = Agreement(
            self.board, self.timeout, self.part, self.stages, self.transport.device
        )

    # Steps --------------------------------------------------------------------------------------

    def step(
        self,
        x: Any = None,
        *,
        target: Any = None,
        losses: Any = None,
        return_outputs: bool = True,
    ) -> Any:
        """One training step on the whole batch. `x` and `target` are given on every rank that has
        a first or a last stage: tensors or (nested) tuples, lists and dicts of them, cut along
        dimension 0; dicts by pipeline where models differ.

        Returns the output, merged in the order of the micro-batches, where this rank has a last
        stage (a dict by pipeline where it has several), else None. `losses`, a list, is cleared
        and filled with the losses of this rank's micro-batches in their order; a dict, by pipeline.
        Gradients are added to `.grad`. Raises `Stopped`; the executor cannot be used after that.
        """
        return self._go("train", x, target, losses, return_outputs)

    def eval(
        self,
        x: Any = None,
        *,
        target: Any = None,
        losses: Any = None,
        return_outputs: bool = True,
    ) -> Any:
        """The forwards alone; gradients stay untouched. Without `target` there are no losses. The
        modules' mode (`module.eval()`) is the caller's."""
        with torch.no_grad():
            return self._go("eval", x, target, losses, return_outputs)

    def close(self) -> None:
        """Ends the thread that watches."""
        self.watchdog.stop()

    def _go(self, name: ProgramName, x: Any, target: Any, losses: Any, return_outputs: bool) -> Any:
        if self.broken:
            raise Stopped(f"this executor has stopped before: {self.broken}")
        self.steps, self.busy = self.steps + 1, True
        try:
            run = self._prepare(name, x, target, return_outputs)
            try:
                if name == "train":
                    self.replicas.begin()
                self.run = run
                run.run()
            except Exception as error:
                self._fail(run, error)
        except Stopped as error:
            if not self.broken:
                self.broken = str(error)
                words = f"rank {self.rank} cannot begin the step: {error}"
                post_failure(self.board, self.rank, words)
            raise
        finally:
            self.run, self.doing, self.busy = None, "is between steps", False
        return self._results(run, losses)

    def _prepare(self, name: ProgramName, x: Any, target: Any, outputs: bool) -> Run:
        script = self.part.scripts.get(name)
        if script is None:
            raise Stopped(
                "this plan has only its forwards: call `eval`, or compile it without --forward-only"
            )
        own = shares(self.part, self.stages, name, x, target)
        self.doing = "agrees on the shapes of the step"
        edges = self.agreement.edges(own, self.steps)
        return Run(
            self.part, script, self.stages, edges, self.transport, self.replicas.sum, own, outputs
        )

    # Ends -----------------------------------------------------------------------------------------

    def _results(self, run: Run, losses: Any) -> Any:
        spec = self.part.spec
        ends = {
            spec.pipelines[p].name: _in_order(run.losses[p])
            for p in sorted(run.losses, key=lambda p: (original(spec, p), spec.pipelines[p].first))
        }
        if losses is not None:
            losses.clear()
        if isinstance(losses, dict):
            losses.update(ends)
        elif losses is not None:
            losses.extend(loss for found in ends.values() for loss in found)
        if not run.outputs:
            return None
        outputs = {
            spec.pipelines[p].name: merged(_in_order(found)) for p, found in run.outputs.items()
        }
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    def _fail(self, run: Run, error: Exception) -> None:
        """Tells the others, and raises what this rank has to say."""
        name = run.script.name
        where = in_words(self.part, name, run.at)
        waiting = peers(self.part, name, run.at)
        for stage in self.stages.values():
            stage.forget()
        known = self._failure(PATIENCE if waiting and not isinstance(error, Stopped) else 0)
        if known is not None:
            self.broken = known
            raise Stopped(f"rank {self.rank} stops: {known}") from None
        if waiting and not isinstance(error, Stopped):
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            self.broken = f"rank {self.rank} {where}, and has lost {ranks(waiting)}: {said}"
        elif isinstance(error, Stopped):
            self.broken = f"rank {self.rank} {where}: {error}"
        else:
            self.broken = f"rank {self.rank} {where} and fails: {type(error).__name__}: {error}"
        post_failure(self.board, self.rank, self.broken)
        raise Stopped(self.broken) from error

    def _failure(self, seconds: float) -> str | None:
        """What another rank has said of its end, within so many seconds."""
        end = time.monotonic() + seconds
        while True:
            try:
                failure = self.board.read("failed")
            except Exception:  # the store is gone with the rank that failed
                return None
            if failure is not None:
                return str(failure["words"]) if failure["rank"] != self.rank else None
            if time.monotonic() >= end:
                return None
            time.sleep(0.05)


def listening(board: Board, rank: int) -> Callable[[], None]:
    """Raises `Stopped` when another rank has failed."""

    def listen() -> None:
        failure = board.read("failed")
        if failure is not None and failure["rank"] != rank:
            raise Stopped(f"rank {rank} stops: {failure['words']}")

    return listen


def post_failure(board: Board, rank: int, words: str) -> None:
    """Tells the other ranks why this one stops, unless another was first."""
    try:
        if board.first("failed"):
            board.post("failed", {"rank": rank, "words": words})
    except Exception:  # nobody left to tell
        return


def _in_order(found: dict[int, Any]) -> list[Any]:
    return [found[m] for m in sorted(found)]


def _position(executor: Executor) -> Any:
    """Where the executor is, as the watchdog asks; None once it is gone."""
    reference = weakref.ref(executor)

    def position() -> Position | None:
        alive = reference()
        if alive is None:
            return None
        run = alive.run
        if run is None:
            return Position((alive.steps, -1), alive.doing, (), alive.busy)
        name, at = run.script.name, run.at
        return Position(
            (alive.steps, at),
            in_words(alive.part, name, at),
            tuple(peers(alive.part, name, at)),
            True,
        )

    return position


def own_part(plan: Plan | str | os.PathLike[str], rank: int, world: int) -> Part:
    """The rank's part of a plan that must be for so many ranks. Raises as `part_of`."""
    try:
        part = part_of(plan, rank)
        many = part.spec.ranks
    except (ValueError, IndexError):
        many = part_of(plan, 0).spec.ranks
    if many != world:
        count = "1 rank" if many == 1 else f"{many} ranks"
        raise Stopped(
            f"the plan is for {count}, and there are {world}: start {many} "
            f"(`torchrun --nproc-per-node {many} …`), or compile it with `--set ranks={world}`"
        )
    return part


_made: dict[str, int] = {}


def board_of(group: dist.ProcessGroup | None = None, transport: Any = None) -> Board:
    """The board of the next executor on this group: their keys are told apart by its members and
    by how many there were. All ranks make their executors in the same order."""
    if hasattr(transport, "hub"):
        return Board(transport.hub.store, "stretto/")
    if not dist.is_initialized():
        raise Stopped(NO_GROUP)
    members = ",".join(map(str, dist.get_process_group_ranks(group or dist.group.WORLD)))
    _made[members] = _made.get(members, 0) + 1
    store = dist.distributed_c10d._get_default_store()
    return Board(store, f"stretto/{members}/{_made[members]}/")


NO_GROUP = (
    "there is no process group: start the script with torchrun and call "
    "`torch.distributed.init_process_group`, or use `run_local` for one process"
)


def _transport(group: dist.ProcessGroup | None, device: torch.device) -> Transport:
    if not dist.is_initialized():
        raise Stopped(NO_GROUP)
    if device.type != "cuda" and dist.get_backend(group) != "nccl":
        return Gloo(group)
    from stretto.runtime.transport.nccl import Nccl

    return Nccl(group)
