"""What a user writes for the runtime to train: a model that can build any of its stages, and data.
In comes a user's object, out come the modules, losses and optimizers of a rank."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stretto.compiler.program.program import Spec
from stretto.runtime.errors import PipelineError
from stretto.runtime.given import Weight
from stretto.runtime.parameters import memory_of
from stretto.runtime.topology import StageGraph, StageId

Data = Callable[[int], tuple[Any, Any]]
"""`data(step)` gives x and target of the whole batch, the same on every rank."""


@dataclass(frozen=True)
class Model:
    """`stage(index, count)` builds stage `index` of `count`, with weights that depend on nothing
    but these; `loss(output, target)` is the loss of one micro-batch; `optimizer(parameters)`, by
    default AdamW, is called once on every rank; `weight(target)`, a number of 0 or more, is how
    much the loss of a micro-batch counts, as the number of its tokens; without it all count alike.
    Any object with these attributes is a model."""

    stage: Callable[[int, int], nn.Module]
    loss: Callable[[Any, Any], Tensor] | None = None
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None
    data: Data | None = None
    weight: Weight | None = None


OPTIONAL = ("loss", "optimizer", "data", "weight")


class Models:
    """The models of a plan's pipelines. `given` is one model, or where the pipelines have
    different ones a dict, or an object with an attribute, by the names that the schedule gives
    them: a `model "name"`, else the pipeline's own. `label` is how messages call it. Raises
    `PipelineError` where one is missing."""

    def __init__(self, spec: Spec, given: Any, label: str):
        self.spec, self.graph, self.label = spec, StageGraph(spec), label
        own = self.graph.originals()
        self.of = {p: self._model(given, p, alone=len(own) == 1) for p in own}

    def _model(self, given: Any, pipeline: int, alone: bool) -> Model:
        name = self.spec.pipelines[pipeline].model or self.spec.pipelines[pipeline].name
        label = self.label if alone else f"{self.label}, model {name!r}"
        if isinstance(given, Mapping):
            found = given.get(name)
        elif alone and _is_model(given):
            found = given
        else:
            found = getattr(given, name, given if alone or _is_model(given) else None)
        if found is None:
            raise PipelineError(f"{self.label} has no model {name!r}, which the plan asks for")
        if isinstance(found, nn.Module) or not _is_model(found):
            raise PipelineError(
                f"{label} is a {type(found).__name__}: a model has `stage(index, count)` and "
                "`loss(output, target)`, or is a function (index, count) -> module"
            )
        if hasattr(found, "stage"):
            others = (getattr(found, name, None) for name in OPTIONAL)
            return Model(found.stage, *others)
        return Model(found)

    def stage(self, stage: StageId) -> nn.Module:
        """Builds the module of the stage. Raises `PipelineError` where its model cannot."""
        count = len(self.spec.pipelines[stage.pipeline].stages)
        model = self.of[self.graph.original(stage.pipeline)]
        try:
            module = model.stage(stage.stage, count)
        except Exception as error:
            raise PipelineError(
                f"{self.label} cannot build stage {stage.stage} of {count}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(module, nn.Module):
            raise PipelineError(
                f"{self.label} has no stage {stage.stage} of {count}: it gave a "
                f"{type(module).__name__}, not an nn.Module"
            )
        return module

    def loss(self) -> dict[str, Callable[[Any, Any], Tensor]]:
        """The models' losses, by pipeline's name."""
        return {
            self.spec.pipelines[p].name: model.loss
            for p, model in self.of.items()
            if model.loss is not None
        }

    def scale_loss(self) -> bool | dict[str, Weight]:
        """The models' weights, by pipeline's name, as an executor takes them; True without any."""
        return {
            self.spec.pipelines[p].name: model.weight
            for p, model in self.of.items()
            if model.weight is not None
        } or True

    def optimizers(self, modules: Mapping[StageId, nn.Module]) -> list[torch.optim.Optimizer]:
        """One optimizer for all of a model's stages on this rank, for each model with parameters to
        train. A parameter that stands in several places is given once, to the first model that has
        it. Raises `PipelineError` where a model makes none of its own."""
        found = []
        seen: set[Hashable] = set()
        for p, model in self.of.items():
            parameters = []
            for stage, module in modules.items():
                for parameter in module.parameters():
                    key = memory_of(parameter)
                    own = self.graph.original(stage.pipeline) == p
                    if own and parameter.requires_grad and key not in seen:
                        seen.add(key)
                        parameters.append(parameter)
            if parameters:
                found.append(self._optimizer(model.optimizer or _adamw, parameters))
        return found

    def _optimizer(
        self,
        make: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        parameters: list[nn.Parameter],
    ) -> torch.optim.Optimizer:
        try:
            made = make(parameters)
        except Exception as error:
            raise PipelineError(
                f"{self.label}: optimizer(parameters) fails: {type(error).__name__}: {error}"
            ) from error
        if not callable(getattr(made, "step", None)):
            raise PipelineError(
                f"{self.label}: optimizer(parameters) gave a {type(made).__name__}, not an "
                "optimizer: it has no step()"
            )
        return made

    def data(self) -> Data | None:
        """The data of the first model that brings its own."""
        return next((model.data for model in self.of.values() if model.data is not None), None)


def _is_model(given: Any) -> bool:
    return callable(getattr(given, "stage", None)) or (
        callable(given) and not isinstance(given, nn.Module | Mapping)
    )


def _adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters)
