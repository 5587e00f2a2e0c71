"""What the tensors of a stage are called in the whole model. In come a rank's stages; out come, for
each, its own names and the model's.

A stage's module may know the model's names: as `full_name(name)`, from a name of its `state_dict`
to that in the model (a stage that numbers its layers from 0 needs it, to say which they are in the
model). Else its names are taken for the model's, as long as no two stages use one; where they do,
all of the model's begin with `stage2of4.`, and fit this number of stages alone."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from stretto.compiler.program.program import TiedPlace
from stretto.runtime.executor import Executor
from stretto.runtime.topology import StageId

WRAPPERS = {
    "DistributedDataParallel": "module",
    "OptimizedModule": "_orig_mod",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
}
"""By class the attribute where it keeps what it wraps: no part of a name in the model."""


class NamedTensor(NamedTuple):
    """A parameter or persistent buffer of a stage, its name in the model, and `once`, the name by
    which is found what an optimizer keeps for it: of a parameter that stands in several places that
    of the first, on all ranks, since a rank may optimize it there or elsewhere."""

    name: str
    once: str
    stage: StageId
    tensor: Tensor
    is_parameter: bool


class TensorNames(NamedTuple):
    """The `tensors` of all stages of this rank, of copies all; and of the whole model, the same on
    every rank, all names of parameters and buffers, and those groups that are one parameter."""

    tensors: list[NamedTensor]
    all: frozenset[str]
    ties: list[list[str]]


def model_names(executor: Executor) -> TensorNames:
    """Found together with all ranks, so that all of them must call it. Raises `MissingKeys` where
    another does not."""
    graph, peers = executor.plan.graph, executor.peers
    own = {stage: _tensors(one.module) for stage, one in executor.stages.items()}
    first = {place: tie.places[0] for tie in graph.spec.ties for place in tie.places}
    told = [
        [
            stage.pipeline,
            stage.stage,
            list(found),
            _knows(executor.stages[stage].module),
            _same(found),
            {one.own: name for name, one in found.items() if (*stage, one.own) in first},
        ]
        for stage, found in own.items()
    ]
    peers.store.post(f"names/{executor.rank}", told)
    every = peers.wait([f"names/{rank}" for rank in range(executor.world)])
    clashing = _clashing(executor, every)
    tied = {(p, s, own): name for row in every for p, s, *_, of in row for own, name in of.items()}
    result = []
    for stage, found in own.items():
        prefix = _prefix(executor, stage, clashing)
        for name, one in found.items():
            at = first.get(TiedPlace(*stage, one.own))
            once = prefix + name
            if at is not None:
                once = (
                    _prefix(executor, StageId(*at[:2]), clashing)
                    + tied[at.pipeline, at.stage, at.name]
                )
            is_parameter = isinstance(one.tensor, nn.Parameter)
            result.append(NamedTensor(prefix + name, once, stage, one.tensor, is_parameter))
    rows = [row for told in every for row in told]
    before = {(p, s): _prefix(executor, StageId(p, s), clashing) for p, s, *_ in rows}
    names = frozenset(before[p, s] + name for p, s, found, *_ in rows for name in found)
    groups = [[before[p, s] + n for n in same] for p, s, _, _, sames, _ in rows for same in sames]
    for tie in graph.spec.ties:
        kept = [place for place in tie.places if place in tied]  # not: a state that leaves it out
        groups.append([before[place[:2]] + tied[place] for place in kept])
    return TensorNames(result, names, joined(groups))


def _same(found: Mapping[str, "_OwnTensor"]) -> list[list[str]]:
    """The names of parameters that have several in the stage."""
    names: dict[int, list[str]] = {}
    for name, one in found.items():
        if isinstance(one.tensor, nn.Parameter):
            names.setdefault(id(one.tensor), []).append(name)
    return [same for same in names.values() if len(same) > 1]


def joined(groups: Iterable[Iterable[str]]) -> list[list[str]]:
    """The groups, those that share a name made one; what has one name alone is none."""
    found: list[set[str]] = []
    for group in groups:
        whole = set(group).union(*(one for one in found if not one.isdisjoint(group)))
        found = [one for one in found if one.isdisjoint(group)] + [whole]
    return sorted(sorted(one) for one in found if len(one) > 1)


def _prefix(executor: Executor, stage: StageId, clashing: set[int]) -> str:
    """What stands before the names of a stage."""
    graph = executor.plan.graph
    original = graph.original(stage.pipeline)
    pipeline = graph.spec.pipelines[original]
    prefix = f"{pipeline.name}." if len(graph.originals()) > 1 else ""
    if original in clashing:
        prefix += f"stage{stage.stage}of{len(pipeline.stages)}."
    return prefix


def _clashing(executor: Executor, every: list[list[list[Any]]]) -> set[int]:
    """The models of which two stages, neither of which knows the model's names, use one name."""
    graph = executor.plan.graph
    names: dict[int, dict[int, list[str]]] = {}
    for pipeline, stage, found, knows, *_ in (row for rows in every for row in rows):
        if not knows:
            names.setdefault(graph.original(pipeline), {})[stage] = found
    return {
        original
        for original, by_stage in names.items()
        if max(Counter(name for found in by_stage.values() for name in found).values(), default=0)
        > 1
    }


class _OwnTensor(NamedTuple):
    """A tensor by its own name, as the module has it."""

    own: str
    tensor: Tensor


def _tensors(module: nn.Module) -> dict[str, _OwnTensor]:
    """By name in the model, as far as the module knows it, what is saved."""
    inner = unwrapped(module)
    full = getattr(inner, "full_name", None)
    found: dict[str, _OwnTensor] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):
            own = plain_name(module, name)
            found[full(own) if full else own] = _OwnTensor(name, tensor)
    return found


def _knows(module: nn.Module) -> bool:
    return callable(getattr(unwrapped(module), "full_name", None))


def unwrapped(module: nn.Module) -> nn.Module:
    """The user's module, without what wraps it."""
    while (attribute := WRAPPERS.get(type(module).__name__)) is not None:
        module = getattr(module, attribute)
    return module


def plain_name(module: nn.Module, name: str) -> str:
    """The name without the attributes of wrappers, wherever in it they are."""
    parts, kept = name.split("."), []
    here: Any = module
    for part in parts:
        if WRAPPERS.get(type(here).__name__) != part:
            kept.append(part)
        here = getattr(here, part, None)
    return ".".join(kept)
