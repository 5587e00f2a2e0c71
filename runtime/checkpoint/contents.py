"""What a rank puts into a checkpoint, and how it takes it back: a flat table, as
`torch.distributed.checkpoint` reads and writes it.

| key | what |
| --- | --- |
| `model.NAME` | a parameter or persistent buffer, under the model's own name |
| `optimizer.state.NAME.KEY` | what the optimizer keeps for the parameter |
| `optimizer.group.NAME` | the settings of the parameter's group |
| `random.RANK` | the random states of the process with this number |
| `extra.NAME` | what an object gave that the user handed in, the same on every rank |
| `own.RANK.NAME` | what an object gave that is the rank's own |
| `progress` | the step after which it was written, and what wrote it |
| `written.RANK` | a word that all processes have written with this checkpoint and no other |
"""

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from stretto.runtime.checkpoint.names import NamedTensor, TensorNames, joined
from stretto.runtime.errors import PipelineError

CheckpointTable = dict[str, Any]
"""By key a tensor or an object."""

WRITTEN = "written."
"""Each process writes a file of its own; one of another checkpoint among them would be read."""


class Stateful(Protocol):
    """What an `extra` offers, as a scheduler does, or a loader of data that counts."""

    def state_dict(self) -> Any:
        """Its state."""
        ...

    def load_state_dict(self, state: Any, /) -> Any:
        """Goes back to the state."""
        ...


class Held(NamedTuple):
    """What is saved of a rank: its tensors with their `names`, its optimizers, what else the user
    handed in (`extra` is the same on every rank, `own` each one's), and the number of the process
    among all."""

    names: TensorNames
    optimizers: tuple[torch.optim.Optimizer, ...]
    extra: Mapping[str, Stateful]
    own: Mapping[str, Stateful]
    process: int

    @property
    def tensors(self) -> list[NamedTensor]:
        """Those of the rank."""
        return self.names.tensors

    def stateful(self) -> dict[str, Stateful]:
        """What was handed in, by its key."""
        found = {f"extra.{name}": one for name, one in self.extra.items()}
        return found | {f"own.{self.process}.{name}": one for name, one in self.own.items()}


def table(held: Held, progress: Mapping[str, Any]) -> CheckpointTable:
    """All that the rank saves. Of copies the first; they are equal."""
    found: CheckpointTable = {"progress": dict(progress), f"random.{held.process}": random_states()}
    found[f"{WRITTEN}{held.process}"] = progress["written"]
    for one in held.tensors:
        found.setdefault(f"model.{one.name}", one.tensor.detach())
    for name, parameter, optimizer, group in _optimized(held):
        key = f"optimizer.group.{name}"
        if key in found:
            continue  # a copy
        found[key] = {k: v for k, v in group.items() if k not in ("params", "param_names")}
        for what, value in optimizer.state.get(parameter, {}).items():
            found[f"optimizer.state.{name}.{what}"] = value
    for key, stateful in held.stateful().items():
        found[key] = stateful.state_dict()
    return found


def _optimized(
    held: Held,
) -> Iterable[tuple[str, nn.Parameter, torch.optim.Optimizer, dict[str, Any]]]:
    """Every parameter that an optimizer moves, with its name, copies too; of one that stands in
    several places the first one's."""
    groups = {
        id(parameter): (optimizer, group)
        for optimizer in held.optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for one in held.tensors:
        if id(one.tensor) in groups:
            assert isinstance(one.tensor, nn.Parameter)
            yield one.once, one.tensor, *groups.pop(id(one.tensor))
    if groups:
        raise PipelineError(
            f"an optimizer has {len(groups)} parameters that no stage of this rank has: hand in "
            "those that were made of this executor's stages"
        )


# Back -------------------------------------------------------------------------------------------


def wanted(held: Held, metadata: Metadata) -> CheckpointTable:
    """What the rank reads of a checkpoint: for each tensor one to read into, for each object None.

    Raises `PipelineError` where the checkpoint lacks a tensor of the model, or has it in another
    shape or type.
    """
    there = metadata.state_dict_metadata
    found: CheckpointTable = {"progress": None}
    found |= {key: None for key in there if key.startswith(WRITTEN)}
    names = dict.fromkeys(f"model.{one.name}" for one in held.tensors)
    _demand(list(names), there)
    for one in held.tensors:
        _compare(one, there[f"model.{one.name}"])
        found.setdefault(f"model.{one.name}", _like(one.tensor, one.tensor.dtype))
    states: dict[str, list[str]] = {}
    for key in there:
        if key.startswith("optimizer.state."):
            states.setdefault(key.rpartition(".")[0], []).append(key)
    for name, parameter, _, _ in _optimized(held):
        if f"optimizer.group.{name}" in there:
            found[f"optimizer.group.{name}"] = None
        for key in states.get(f"optimizer.state.{name}", ()):
            found[key] = _room(parameter, there[key])
    for key in [f"random.{held.process}", *held.stateful()]:
        if key in there:
            found[key] = None
        elif key.startswith("own."):
            raise PipelineError(
                f"it has no `{key}`: what a model keeps on each rank itself (`state_dict`) can be "
                "read by as many ranks as have written it"
            )
    return found


def compare_ties(names: TensorNames, progress: Mapping[str, Any]) -> None:
    """Raises `PipelineError` where what was one parameter when it was saved is several here, or the
    other way round: one of the values would be lost, or each trained by itself."""
    if "ties" not in progress:
        return  # saved before ties were
    there = joined(names.all.intersection(group) for group in progress["ties"])
    for these, others, words in (
        (there, names.ties, "was saved with {} as one parameter, and here they are several"),
        (names.ties, there, "was saved with {} as several parameters, and here they are one"),
    ):
        for group in these:
            if not any(set(group) <= set(other) for other in others):
                named = " and ".join(f"`{name}`" for name in group)
                raise PipelineError(
                    f"it {words.format(named)}: tie here what was tied there (`tied` in the "
                    "stages' modules, or `ties=`), and nothing else"
                )


def take(held: Held, read: CheckpointTable) -> None:
    """Puts what was read where it belongs, into every copy. Raises `PipelineError` where parameters
    of one optimizer's group were trained with different settings."""
    with torch.no_grad():
        for one in held.tensors:
            one.tensor.copy_(read[f"model.{one.name}"])
    states: dict[str, dict[str, Any]] = {}
    for key, value in read.items():
        if key.startswith("optimizer.state."):
            name, _, what = key.removeprefix("optimizer.state.").rpartition(".")
            states.setdefault(name, {})[what] = value
    settings: dict[int, dict[str, Any]] = {}
    for name, parameter, optimizer, group in _optimized(held):
        saved = read.get(f"optimizer.group.{name}")
        if saved is not None and settings.setdefault(id(group), saved) != saved:
            raise PipelineError(
                f"`{name}` was trained with {saved}, others of its optimizer's group with "
                f"{settings[id(group)]}: make the groups as they were when it was saved"
            )
        if saved is not None:
            group.update(saved)
        optimizer.state[parameter] = {
            what: value.clone() if isinstance(value, Tensor) else value
            for what, value in states.get(name, {}).items()
        }
        if not optimizer.state[parameter]:
            del optimizer.state[parameter]
    for key, stateful in held.stateful().items():
        if key in read:
            stateful.load_state_dict(read[key])
    if (key := f"random.{held.process}") in read:
        restore_random_states(read[key])


def _demand(keys: list[str], there: Mapping[str, Any]) -> None:
    missing = [key.removeprefix("model.") for key in keys if key not in there]
    if not missing:
        return
    own = [key.removeprefix("model.") for key in there if key.startswith("model.")]
    raise PipelineError(
        f"the checkpoint lacks {len(missing)} of {len(keys)} tensors of this rank, `{missing[0]}` "
        f"for one; it has {len(own)}, `{min(own, default='none')}` for one. Was it saved of "
        "another model, or of stages that are numbered anew? Let them have `full_name(name)`, "
        "which says what a tensor is called in the whole model"
    )


def _compare(one: NamedTensor, there: Any) -> None:
    dtype = there.properties.dtype if isinstance(there, TensorStorageMetadata) else None
    if dtype != one.tensor.dtype or tuple(there.size) != tuple(one.tensor.shape):
        was = "no tensor" if dtype is None else f"{tuple(there.size)} {dtype}"
        raise PipelineError(
            f"the checkpoint has `{one.name}` as {was}, this rank as {tuple(one.tensor.shape)} "
            f"{one.tensor.dtype}"
        )


def _like(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(tensor.detach(), dtype=dtype)


def _room(parameter: Tensor, there: Any) -> Any:
    """A tensor for an optimizer's state: laid out as its parameter, where it has that shape."""
    if not isinstance(there, TensorStorageMetadata):
        return None
    if tuple(there.size) == tuple(parameter.shape) and there.size:
        return _like(parameter, there.properties.dtype)
    device = parameter.device if there.size else torch.device("cpu")  # a count of steps
    return torch.empty(there.size, dtype=there.properties.dtype, device=device)


# Random states ----------------------------------------------------------------------------------


def random_states() -> dict[str, Any]:
    """Those of Python, of NumPy where it is loaded, of torch and its device."""
    import sys

    found: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if "numpy" in sys.modules:
        found["numpy"] = sys.modules["numpy"].random.get_state()
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_rng_state()
    return found


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Puts them back."""
    import sys

    restorers: dict[str, Callable[[Any], Any]] = {
        "python": random.setstate,
        "torch": torch.set_rng_state,
    }
    if "numpy" in sys.modules:
        restorers["numpy"] = sys.modules["numpy"].random.set_state
    if torch.cuda.is_available():
        restorers["cuda"] = torch.cuda.set_rng_state
    for name, restore in restorers.items():
        if name in states:
            restore(states[name])
