"""What a user writes for the runtime to train: a model that can build any of its stages, and data.
Here is the protocol, and how `MODULE:NAME` is found."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stretto.compiler.program.program import Spec
from stretto.runtime.errors import Stopped
from stretto.runtime.topology import Place, original, streams

Data = Callable[[int], tuple[Any, Any]]
"""`data(step)` gives x and target of the whole batch, the same on every rank."""


@dataclass(frozen=True)
class Model:
    """`stage(index, count)` builds stage `index` of `count`, with weights that depend on nothing
    but these; `loss(output, target)` is the loss of one micro-batch; `optimizer(parameters)`, by
    default AdamW, is called once on every rank. Any object with these attributes is a model."""

    stage: Callable[[int, int], nn.Module]
    loss: Callable[[Any, Any], Tensor] | None = None
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None
    data: Data | None = None


class Models:
    """The models of a plan's pipelines. `given` is one model, or where the pipelines have
    different ones a dict, or an object with an attribute, by the names that the schedule gives
    them: a `model "name"`, else the pipeline's own. Raises `Stopped` where one is missing."""

    def __init__(self, spec: Spec, given: Any, words: str):
        self.spec, self.words = spec, words
        own = streams(spec)
        self.of = {p: self._model(given, p, alone=len(own) == 1) for p in own}

    def _model(self, given: Any, pipeline: int, alone: bool) -> Model:
        name = self.spec.pipelines[pipeline].model or self.spec.pipelines[pipeline].name
        words = self.words if alone else f"{self.words}, model {name!r}"
        if isinstance(given, Mapping):
            found = given.get(name)
        elif alone and _is_model(given):
            found = given
        else:
            found = getattr(given, name, given if alone or _is_model(given) else None)
        if found is None:
            raise Stopped(f"{self.words} has no model {name!r}, which the plan asks for")
        if isinstance(found, nn.Module) or not _is_model(found):
            raise Stopped(
                f"{words} is a {type(found).__name__}: a model has `stage(index, count)` and "
                "`loss(output, target)`, or is a function (index, count) -> module"
            )
        if hasattr(found, "stage"):
            rest = (getattr(found, name, None) for name in ("loss", "optimizer", "data"))
            return Model(found.stage, *rest)
        return Model(found)

    def stage(self, place: Place) -> nn.Module:
        """The module of this stage. Raises `Stopped` in the user's words where it has none."""
        count = len(self.spec.pipelines[place.pipeline].stages)
        model = self.of[original(self.spec, place.pipeline)]
        try:
            module = model.stage(place.stage, count)
        except Exception as error:
            raise Stopped(
                f"{self.words} cannot build stage {place.stage} of {count}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(module, nn.Module):
            raise Stopped(
                f"{self.words} has no stage {place.stage} of {count}: it gave a "
                f"{type(module).__name__}, not an nn.Module"
            )
        return module

    def loss(self) -> dict[str, Callable[[Any, Any], Tensor]]:
        """By pipeline."""
        return {
            self.spec.pipelines[p].name: model.loss
            for p, model in self.of.items()
            if model.loss is not None
        }

    def optimizer(self, modules: Mapping[Place, nn.Module]) -> list[torch.optim.Optimizer]:
        """One for all stages of each model. Raises `Stopped` where a model's own makes none."""
        found = []
        for p, model in self.of.items():
            parameters = [
                parameter
                for place, module in modules.items()
                if original(self.spec, place.pipeline) == p
                for parameter in module.parameters()
                if parameter.requires_grad
            ]
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
            raise Stopped(
                f"{self.words}: optimizer(parameters) fails: {type(error).__name__}: {error}"
            ) from error
        if not callable(getattr(made, "step", None)):
            raise Stopped(
                f"{self.words}: optimizer(parameters) gave a {type(made).__name__}, not an "
                "optimizer: it has no step()"
            )
        return made

    def data(self) -> Data | None:
        """That of the first model that brings its own."""
        return next((model.data for model in self.of.values() if model.data is not None), None)


def _is_model(given: Any) -> bool:
    return callable(getattr(given, "stage", None)) or (
        callable(given) and not isinstance(given, nn.Module | Mapping)
    )


def _adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters)


def find(name: str, what: str) -> Any:
    """The object that `MODULE:NAME` means; MODULE is a dotted name, looked for beside the current
    directory too, or the path of a `.py` file. Raises `Stopped`."""
    module_name, colon, attribute = name.rpartition(":")
    if not colon or not module_name or not attribute:
        raise Stopped(f"--{what} {name}: write it as MODULE:NAME, as in examples/gpt.py:MODEL")
    module = _module(module_name, name, what)
    found = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise Stopped(f"--{what} {name}: {module_name} has no {attribute}")
        found = getattr(found, part)
    return found


def _module(module_name: str, name: str, what: str) -> Any:
    try:
        if module_name.endswith(".py"):
            path = Path(module_name)
            if not path.is_file():
                raise Stopped(f"--{what} {name}: there is no file {module_name}")
            known = sys.modules.get(path.stem)
            if known is not None and getattr(known, "__file__", None) == str(path.resolve()):
                return known
            spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[path.stem] = module
            if str(path.resolve().parent) not in sys.path:
                sys.path.insert(0, str(path.resolve().parent))
            spec.loader.exec_module(module)
            return module
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(module_name)
    except Stopped:
        raise
    except Exception as error:
        raise Stopped(
            f"--{what} {name}: importing {module_name} fails: {type(error).__name__}: {error}"
        ) from error
