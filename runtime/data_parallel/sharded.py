"""FSDP2 (`fully_shard`) in a stage. In come the parts of the stage's module that it has sharded;
what is promised is one reduction of their gradients per step. Within a step no backward reduces or
reshards; gradients stay whole, in the type that the mixed precision policy reduces in, until the
stage's last one is there. `reshard_after_forward` is kept: such parts are gathered again for each
backward.

torch's own schedules do the same to the same attributes (`torch.distributed.pipelining.stage`,
`perform_reduce_grad`); what begins with an underscore is theirs, and is touched here and in
`stage.gradients` alone.
"""

import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist

from stretto.runtime.stage.gradients import parameter_groups, sharded_parameters


class Completable(Protocol):
    """What can be asked whether it is over."""

    def is_completed(self) -> bool:
        """Whether it is."""
        ...


class ShardedStage:
    """The sharded parts of one stage."""

    def __init__(self, parts: Sequence[Any]):
        self.parts = list(parts)
        self.under_way: list[ReductionThread] = []

    def parameter_ids(self) -> set[int]:
        """The ids of the parameters that are sharded, as the modules have them now."""
        return {
            id(getattr(part, name))
            for parameter in self._parameters()
            for part, name in [(parameter._module_info.module, parameter._module_info.param_name)]
        }

    def groups(self) -> list[dist.ProcessGroup]:
        """The process groups over which the parts are sharded or replicated, each once."""
        found: dict[Any, dist.ProcessGroup] = {}
        for group in self._groups():
            for name in ("shard_process_group", "replicate_process_group"):
                one = getattr(group.mesh_info, name, None)
                if one is not None:
                    found[tuple(dist.get_process_group_ranks(one))] = one
        return list(found.values())

    def prepare(self) -> None:
        """Before a step's list: no backward of it reduces by itself."""
        self._set(synchronize=False, last=False)

    def gather(self) -> None:
        """Begins to gather the weights; forwards wait for them."""
        for part in self.parts:
            part.unshard(async_op=True)

    def gathered(self) -> None:
        """Gathers weights that a forward has resharded since, and waits: halves of a backward may
        read them."""
        for part in self.parts:
            part.unshard()

    def fold(self) -> None:
        """Behind a gradient of weights: adds it to what is accumulated, in the type in which
        gradients are reduced."""
        for parameter in self._parameters():
            if hasattr(parameter, "_unsharded_param"):
                parameter.accumulate_unsharded_grad_if_needed()
                parameter.to_accumulated_grad_if_needed()

    def begin(self) -> None:
        """Begins to reduce the gradients, and reshards. On a GPU this queues it. On the CPU, where
        FSDP waits for each collective, each group of parameters has a thread that does; the next
        one is begun when the collective before it was, so that all replicas begin them in one
        order."""
        self._set(synchronize=True, last=True)
        for group in reversed(list(self._groups())):
            if _waits(group):
                self.under_way.append(ReductionThread(group))
            else:
                _reduce(group)

    def works(self) -> Sequence[Completable]:
        """What is under way."""
        return self.under_way

    def finish(self) -> None:
        """Waits until the reduced gradients are there for whoever comes next. Raises what the
        collectives have raised."""
        begun, self.under_way = self.under_way, []
        for one in begun:
            one.finish()
        for state in self._roots():
            state._root_post_backward_final_callback()

    def end_without(self) -> None:
        """At the end of a step whose gradients are not reduced: they stay whole, the weights are
        resharded."""
        self._set(synchronize=False, last=True)
        for group in reversed(list(self._groups())):
            _reduce(group)
        self.finish()
        self._set(synchronize=True, last=True)

    def reshard(self) -> None:
        """After an evaluation: what the optimizer changes next must be gathered anew."""
        for part in self.parts:
            part.reshard()

    def abandon(self) -> None:
        """After a step that failed."""
        self.under_way = []

    def _set(self, synchronize: bool, last: bool) -> None:
        for part in self.parts:
            part.set_requires_gradient_sync(synchronize, recurse=False)
            part.set_is_last_backward(last)
            part.set_reshard_after_backward(last, recurse=False)

    def _states(self) -> Iterator[Any]:
        found = {id(state): state for state in (part._get_fsdp_state() for part in self.parts)}
        return iter(found.values())

    def _roots(self) -> Iterator[Any]:
        return (state for state in self._states() if state._is_root)

    def _groups(self) -> Iterator[Any]:
        return parameter_groups(self.parts)

    def _parameters(self) -> Iterator[Any]:
        return sharded_parameters(self.parts)


class ReductionThread:
    """The reduction of one group of parameters on a thread of its own; made when its collective has
    begun. `group` is torch's `FSDPParamGroup`."""

    def __init__(self, group: Any):
        self.group, self.comm = group, group._reduce_scatter_comm
        self.begun = threading.Event()
        self.error: BaseException | None = None
        group._reduce_scatter_comm = _Announced(self.comm, self.begun)
        self.thread = threading.Thread(target=self._run, name="stretto-reduce", daemon=True)
        self.thread.start()
        self.begun.wait()

    def _run(self) -> None:
        try:
            _reduce(self.group)
        except BaseException as error:
            self.error = error
        self.begun.set()  # where there was nothing to reduce

    def is_completed(self) -> bool:
        """Whether the gradients are there, or never will be."""
        return not self.thread.is_alive()

    def finish(self) -> None:
        """Waits for it. Raises what it has raised."""
        self.thread.join()
        self.group._reduce_scatter_comm = self.comm
        if self.error is not None:
            raise self.error


class _Announced:
    """A way to reduce and scatter that tells when it has begun."""

    def __init__(self, comm: Any, begun: threading.Event):
        self.comm, self.begun = comm, begun

    def __getattr__(self, name: str) -> Any:
        return getattr(self.comm, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        work = self.comm(*args, **{**kwargs, "async_op": True})
        self.begun.set()
        work.wait()


def _waits(group: Any) -> bool:
    """Whether FSDP waits for the group's collective. (Where it replicates too, several follow one
    another, and their order is kept by waiting.)"""
    alone = getattr(group.mesh_info, "replicate_process_group", None) is None
    return group.device.type == "cpu" and alone and hasattr(group, "_reduce_scatter_comm")


def _reduce(group: Any) -> None:
    with torch.no_grad():
        group.post_backward()
