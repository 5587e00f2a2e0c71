"""A rank's optimizers and their schedulers, as the user's models make them. In come the models and
the modules of the rank's stages; out come what takes the steps."""

import inspect
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from stretto.compiler.program.program import Tie, TiedPlace
from stretto.runtime.errors import PipelineError, spelled
from stretto.runtime.parameters import memory_of
from stretto.runtime.topology import StageId
from stretto.runtime.train.model import Model, Models

Named = tuple[str, nn.Parameter]
"""A parameter with its name: the number of its stage, a point, and its name in the stage's module,
as in `nn.Sequential(*stages)`."""


class Stepping(NamedTuple):
    """An optimizer, and the scheduler of its learning rates if there is one. `name` is the same on
    every rank: the number of its model, a point, and its own among those of the model."""

    optimizer: torch.optim.Optimizer
    scheduler: Any = None
    name: str = "0.0"


def stepping_of(
    models: Models, modules: Mapping[StageId, nn.Module], rank: int, ties: Sequence[Tie] = ()
) -> list[Stepping]:
    """What steps a rank's parameters: for every model with parameters to train on this rank, the
    optimizers that it makes of them. A parameter that stands in several places is given once, to
    the first model that has it, and on every rank under the name of the first place. Raises
    `PipelineError` where a model makes none of its own, or one that cannot be stepped by a
    pipeline."""
    found: list[Stepping] = []
    where = f"{models.label}, rank {rank}"
    seen: set[Hashable] = set()
    first = {place: tie.places[0] for tie in ties for place in tie.places}
    for number, (p, model) in enumerate(models.of.items()):
        parameters = list(_parameters(models, modules, p, seen, first))
        made = _optimizers(model, where, parameters) if parameters else []
        for k, one in enumerate(made):
            found.append(Stepping(one, _scheduler(model, where, one), f"{number}.{k}"))
    return found


def _parameters(
    models: Models,
    modules: Mapping[StageId, nn.Module],
    pipeline: int,
    seen: set[Hashable],
    first: Mapping[TiedPlace, TiedPlace],
) -> Iterator[Named]:
    """Those of the model of the pipeline that learn, each once."""
    for stage, module in modules.items():
        if models.graph.original(stage.pipeline) == pipeline:
            for name, parameter in module.named_parameters():
                key = memory_of(parameter)
                if parameter.requires_grad and key not in seen:
                    seen.add(key)
                    place = TiedPlace(stage.pipeline, stage.stage, name)
                    place = first.get(place, place)
                    yield f"{place.stage}.{place.name}", parameter


def _optimizers(model: Model, label: str, named: Sequence[Named]) -> list[torch.optim.Optimizer]:
    """What `optimizer(parameters)` or `optimizer(named_parameters)` makes: one, or several."""
    make = model.optimizer or _adamw
    given: Any = list(named) if wants_names(make) else [parameter for _, parameter in named]
    what = f"{label}: optimizer({'named_' if wants_names(make) else ''}parameters)"
    try:
        made = make(given)
    except Exception as error:
        raise PipelineError(f"{what} fails: {spelled(error)}") from error
    several: list[Any] = list(made) if isinstance(made, list | tuple) else [made]
    for one in several:
        if not callable(getattr(one, "step", None)):
            raise PipelineError(
                f"{what} gave a {type(one).__name__}, not an optimizer: it has no step()"
            )
        if asks_for(one.step, "closure"):
            raise PipelineError(
                f"{label}: {type(one).__name__} needs a closure that computes the loss again and "
                "again, which a step of a pipeline is not: take an optimizer that steps by "
                "gradients alone"
            )
    return several


def _scheduler(model: Model, label: str, optimizer: torch.optim.Optimizer) -> Any:
    if model.scheduler is None:
        return None
    try:
        made = model.scheduler(optimizer)
    except Exception as error:
        raise PipelineError(f"{label}: scheduler(optimizer) fails: {spelled(error)}") from error
    if made is None:
        return None
    if not callable(getattr(made, "step", None)):
        raise PipelineError(
            f"{label}: scheduler(optimizer) gave a {type(made).__name__}, not a scheduler: it has "
            "no step()"
        )
    if asks_for(made.step, "metrics"):
        raise PipelineError(
            f"{label}: {type(made).__name__} is stepped by a measured number, which `stretto run` "
            "does not give: take a scheduler that counts steps, or write your own loop"
        )
    return made


def wants_names(make: Callable[..., Any]) -> bool:
    """Whether the function takes parameters with their names."""
    try:
        return "named_parameters" in inspect.signature(make).parameters
    except (TypeError, ValueError):  # a builtin has no signature
        return False


def asks_for(step: Callable[..., Any], name: str) -> bool:
    """Whether the method cannot be called without an argument of this name."""
    try:
        found = inspect.signature(step).parameters.get(name)
    except (TypeError, ValueError):
        return False
    return found is not None and found.default is inspect.Parameter.empty


def _adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters)
