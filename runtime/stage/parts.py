"""What a stage declares that is cut into parts. In comes a user's module and the chain of the plan;
out come the callables that run the chain's parts, in its order.

A stage takes part by two things: `parts`, the sequence of (name, layer) that it has, `layer` being
None outside of groups, and `part(name, layer)`, a callable for each. The first one is called with
the stage's input, each next one with what the one before returned, and the last one returns the
stage's output. What a part returns may be a tensor or any container of tensors and other values; as
with stages, a tuple or list is the positional arguments of the next part (its one argument, if that
takes no more), a `Mapping` its keywords."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from stretto.runtime.batch import arguments
from stretto.runtime.errors import PipelineError


class PartName(NamedTuple):
    """A part of a stage's chain; `layer` is None outside of groups."""

    name: str
    layer: int | None = None

    def __str__(self) -> str:
        return self.name if self.layer is None else f"{self.name}, layer {self.layer}"


class ChainLink(NamedTuple):
    """A part as the plan has it: which, and the name of its stream."""

    part: PartName
    stream: str


class StagePart(NamedTuple):
    """A part ready to run: `call` is the user's, `most` how many positional arguments it takes."""

    part: PartName
    stream: str
    call: Callable[..., Any]
    most: float

    def arguments(self, handed: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """How it is called with what the part before returned."""
        args, kwargs = arguments(handed)
        return ((handed,), {}) if 1 == self.most < len(args) else (args, kwargs)


def has_parts(module: nn.Module) -> bool:
    """Whether the module declares any."""
    return hasattr(module, "parts") and callable(getattr(module, "part", None))


def declared_parts(module: nn.Module, label: str) -> list[PartName]:
    """The sequence that the module declares. Raises `PipelineError`, naming the stage by `label`,
    where it is none of (name, layer)."""
    said: Any = module.parts
    said = said() if callable(said) and not isinstance(said, nn.Module) else said
    found = []
    for k, item in enumerate(said if isinstance(said, Iterable) else [said]):
        pair = tuple(item) if isinstance(item, tuple | list) else (item, None)
        name, layer = pair if len(pair) == 2 else (None, None)
        if not isinstance(name, str) or not (layer is None or type(layer) is int):
            raise PipelineError(
                f"`parts` of `{label}`, a {type(module).__name__}, has {item!r} at place {k}: each "
                "is (name, layer), as ('mlp', 0), or (name, None) outside of groups"
            )
        found.append(PartName(name, layer))
    return found


def stage_parts(module: nn.Module, chain: Sequence[ChainLink], label: str) -> list[StagePart]:
    """The module's callables for the parts of the plan's chain. Raises `PipelineError`, naming the
    stage by `label` and the first difference, where the module declares another sequence."""
    kind = type(module).__name__
    if not has_parts(module):
        raise PipelineError(
            f"the plan cuts `{label}` into parts, and its module, a {kind}, does not say what they "
            "are: give it `parts`, the sequence of (name, layer), and `part(name, layer)`, which "
            "returns what runs one; or compile the plan with `--whole`"
        )
    own = declared_parts(module, label)
    _compare([link.part for link in chain], own, label, kind)
    return [_ready(module, link, label) for link in chain]


def _compare(plan: Sequence[PartName], own: Sequence[PartName], label: str, kind: str) -> None:
    if list(plan) == list(own):
        return
    shorter = min(len(plan), len(own))
    at = next((k for k in range(shorter) if plan[k] != own[k]), shorter)
    wanted = f"`{plan[at]}`" if at < len(plan) else "no more"
    there = f"`{own[at]}`" if at < len(own) else "no more"
    before = f", behind `{own[at - 1]}`" if at else ""
    raise PipelineError(
        f"the parts of `{label}` are not those of the plan: at place {at}{before}, the plan has "
        f"{wanted}, and `parts` of {kind} has {there} (the plan's chain has {len(plan)} parts, the "
        f"stage's {len(own)}): compile the plan for the stages that the model has"
    )


def _ready(module: nn.Module, link: ChainLink, label: str) -> StagePart:
    name, layer = link.part
    call: Any = module.part(name, layer)  # type: ignore[operator]
    if not callable(call):
        raise PipelineError(
            f"`part({name!r}, {layer})` of `{label}` returned a {type(call).__name__}: it returns "
            "what runs the part, a function or a module"
        )
    return StagePart(link.part, link.stream, call, _most(call))


def _most(call: Any) -> float:
    """How many positional arguments it takes; of what has no signature, any number."""
    try:
        signature = inspect.signature(call.forward if isinstance(call, nn.Module) else call)
    except (TypeError, ValueError):
        return float("inf")
    kinds = inspect.Parameter
    found = signature.parameters.values()
    if any(p.kind is kinds.VAR_POSITIONAL for p in found):
        return float("inf")
    return sum(p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD) for p in found)


def uncut(module: nn.Module) -> Callable[..., Any]:
    """What runs the stage in one piece: the module itself, or where it has parts and no forward of
    its own, its parts one after another, in one graph."""
    inherited = getattr(type(module).forward, "__name__", "") == "_forward_unimplemented"
    if not inherited or not has_parts(module):
        return module

    def one_after_another(*args: Any, **kwargs: Any) -> Any:
        chain = [ChainLink(part, "") for part in declared_parts(module, "the stage")]
        handed: Any = None
        for k, part in enumerate(stage_parts(module, chain, "the stage")):
            if k:
                args, kwargs = part.arguments(handed)  # type: ignore[assignment]
            handed = part.call(*args, **kwargs)
        return handed

    return one_after_another
