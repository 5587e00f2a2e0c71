"""What a user writes for the runtime to train: a model that can build any of its stages, and data.
In comes a user's object, out come the modules, losses and data of a rank."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from stretto.compiler.program.program import Spec, Tie
from stretto.runtime.declared_ties import TieTable
from stretto.runtime.errors import PipelineError, spelled
from stretto.runtime.given import Weight
from stretto.runtime.topology import StageGraph, StageId

Data = Callable[[int], tuple[Any, Any]]
"""`data(step)` gives x and target of the whole batch, the same on every rank."""


@dataclass(frozen=True)
class Model:
    """What to train. Any object with these attributes is a model.

    - `stage(index, count)` builds stage `index` of `count`, with weights that depend on nothing but
      these;
    - `loss(output, target)` is the loss of one micro-batch;
    - `optimizer(parameters)`, by default AdamW, is called once on every rank that has any; a
      function whose argument is called `named_parameters` is given pairs of a name, as
      `3.norm.weight` for `norm.weight` of stage 3, and the parameter. It may make several;
    - `weight(target)`, a number of 0 or more, is how much the loss of a micro-batch counts, as the
      number of its tokens; without it all count alike;
    - `data(step)` gives x and target of the whole batch of step 1, 2, …;
    - `scheduler(optimizer)` makes the scheduler of an optimizer's learning rates, stepped after
      each of its steps;
    - `eval_data`: batches of (x, target), the same ones at every evaluation, or a function that
      gives them;
    - `after_step(done)` is called on every rank after each update, with a `StepDone`;
    - `ties` are the parameters that stand in several places, `{"embedding": [(0, "embed.weight"),
      (-1, "head.weight")]}`, stages below 0 counted from the end;
    - `state_dict()` and `load_state_dict(state)`: what the model keeps itself on a rank, an average
      of weights for instance, as checkpoints have it beside the stages."""

    stage: Callable[[int, int], nn.Module]
    loss: Callable[[Any, Any], Tensor] | None = None
    optimizer: Callable[..., torch.optim.Optimizer | Sequence[torch.optim.Optimizer]] | None = None
    data: Data | None = None
    weight: Weight | None = None
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None
    eval_data: Any = None
    after_step: Callable[[Any], object] | None = None
    ties: TieTable | None = None
    state_dict: Callable[[], Any] | None = None
    load_state_dict: Callable[[Any], object] | None = None


PARTS = tuple(field.name for field in fields(Model) if field.name != "stage")
"""What a model may have besides its stages."""


class Models:
    """The models of a plan's pipelines. `given` is one model, or where the pipelines have
    different ones a dict, or an object with an attribute, by the names that the schedule gives
    them: a `model "name"`, else the pipeline's own. `label` is how messages call it. Raises
    `PipelineError` where one is missing."""

    def __init__(self, spec: Spec, given: Any, label: str):
        self.spec, self.graph, self.label = spec, StageGraph(spec), label
        own = self.graph.originals()
        self.of = {p: self._model(given, p, alone=len(own) == 1) for p in own}
        first = spec.pipelines[own[0]]
        several = len(own) > 1 and hasattr(given, first.model or first.name)
        self.between: TieTable = (getattr(given, "ties", None) if several else None) or {}

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
            return Model(found.stage, **{name: getattr(found, name, None) for name in PARTS})
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
                f"{spelled(error)}{_hint(error, count)}"
            ) from error
        if not isinstance(module, nn.Module):
            raise PipelineError(
                f"{self.label} has no stage {stage.stage} of {count}: it gave a "
                f"{type(module).__name__}, not an nn.Module"
            )
        return module

    def named(self, name: str, stage: int) -> StageId:
        """The stage of the pipeline of this name."""
        return StageId([pipeline.name for pipeline in self.spec.pipelines].index(name), stage)

    def ties(self) -> TieTable | None:
        """What the models say of their ties, and whoever has several of them of those between; None
        where nobody says anything."""
        if not self.between and all(model.ties is None for model in self.of.values()):
            return None
        found = dict(self.between)
        for p, model in self.of.items():
            name = self.spec.pipelines[p].name
            for tie, where in (model.ties or {}).items():
                found[f"{name}/{tie}"] = [(name, *place) for place in where]
        return found

    def refuse_optimizers(self, ties: Iterable[Tie]) -> None:
        """Raises `PipelineError` where models with optimizers of their own share a parameter: its
        holders would be moved differently."""
        for tie in ties:
            own = {self.graph.original(place.pipeline) for place in tie.places}
            if any(self.of[p].optimizer != self.of[min(own)].optimizer for p in own):
                raise PipelineError(
                    f"{self.label}: several models share `{tie.name}`, and have each an optimizer "
                    "of its own, so that it would be moved in several ways: give them one"
                )

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

    def data(self) -> Data | None:
        """The data of the first model that brings its own."""
        return next((model.data for model in self.of.values() if model.data is not None), None)

    def eval_data(self) -> Any:
        """The evaluation data of the first model that brings its own."""
        found = (model.eval_data for model in self.of.values() if model.eval_data is not None)
        return next(found, None)


def _is_model(given: Any) -> bool:
    return callable(getattr(given, "stage", None)) or (
        callable(given) and not isinstance(given, nn.Module | Mapping)
    )


def _hint(error: Exception, count: int) -> str:
    """Where a model that holds its layers in a list or a dict has fewer of them."""
    if isinstance(error, LookupError):
        return f"; the plan asks for {count} stages: does the model have as many?"
    return ""
