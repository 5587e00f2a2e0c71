"""What looks like one parameter and is tied by nothing. Three signs, from certain to weak: the
module itself says so, as those of `transformers` do (`_tied_weights_keys`); the configuration says
so (`tie_word_embeddings`), and two stages have a table of its vocabulary; or parameters of two
stages start with the same values. The first two are refused, unless the executor is told that there
are no such ties (`ties={}`); the third may be chance, as where all stages are drawn from one seed:
where the model can be asked, it decides, else a warning names them. (If it says no, those with
different names, such as an embedding and a head, are still warned of.)"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import torch
from torch import nn

from stretto.compiler.program.program import Tie, TiedPlace
from stretto.runtime.errors import PipelineError
from stretto.runtime.parameters import RankStages, label, places, some_values
from stretto.runtime.stage.gradients import plain
from stretto.runtime.topology import StageGraph, StageId

Build = Callable[[StageId], nn.Module]
"""Builds the module of any stage; where the model is one module that it is cut out of, with the
parameters of that one."""


class Sign(NamedTuple):
    """A place that should be tied. `why`: what says so; `alone`: it says so of this place, else
    only together with another one of the same `table`, the shape."""

    place: TiedPlace
    why: str
    alone: bool
    table: list[int]


def signs(stages: RankStages) -> list[Sign]:
    """What modules and configurations say of this rank's stages; of parameters that have several
    names in their stage, nothing: they are one there already."""
    found = []
    for stage in sorted(stages):
        whole = stages[stage].module
        names: dict[int, list[str]] = {}
        for name, parameter in whole.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        single = {same[0] for same in names.values() if len(same) == 1}
        for path, module in whole.named_modules():
            for name, why, alone in _said(module):
                full = f"{path}.{name}" if path else name
                if full in single:
                    place = TiedPlace(stage.pipeline, stage.stage, full)
                    found.append(Sign(place, why, alone, list(whole.get_parameter(full).shape)))
    return found


def _said(module: nn.Module) -> Iterator[tuple[str, str, bool]]:
    """Names of the module's parameters, why they should be tied, and whether that is sure."""
    config = getattr(module, "config", None)
    tied = getattr(config, "tie_word_embeddings", None) is True
    keys: Any = getattr(module, "all_tied_weights_keys", None)
    if not keys:
        keys = getattr(module, "_tied_weights_keys", None) if tied else None
    patterns = [*keys, *(keys.values() if isinstance(keys, Mapping) else ())] if keys else []
    if not patterns and not tied:
        return
    size = getattr(config, "vocab_size", None)
    for name, parameter in module.named_parameters():
        if any(isinstance(p, str) and re.search(rf"^(?:{p})$", name) for p in patterns):
            yield name, f"its {type(module).__name__} names it in `_tied_weights_keys`", True
        elif tied and parameter.ndim == 2 and parameter.shape[0] == size:
            yield name, "`tie_word_embeddings` is true in its configuration", False


def refuse_signs(graph: StageGraph, found: Iterable[Sign], ties: Iterable[Tie]) -> None:
    """Raises `PipelineError` for a sign of what no tie has."""
    tied = {place for tie in ties for place in tie.places}
    tables: dict[tuple[int, ...], Sign] = {}
    for sign in found:
        if sign.place in tied:
            continue
        other = tables.setdefault(tuple(sign.table), sign)
        stage = graph.original(sign.place.pipeline), sign.place.stage
        elsewhere = stage != (graph.original(other.place.pipeline), other.place.stage)
        if sign.alone or elsewhere:
            places = f"`{label(graph, sign.place)}`"
            if elsewhere:
                places = f"`{label(graph, other.place)}` and {places}"
            raise PipelineError(
                f"{places} should be tied, for {sign.why}, and nothing says with what: declare it "
                f'in the stages\' modules (`tied = {{"{sign.place.name}": "a name"}}`, with the '
                "same name in both), or give the executor `ties=`; `ties={}` if they are not one"
            )


# Equal values -----------------------------------------------------------------------------------


def fingerprints(stages: RankStages) -> list[tuple[TiedPlace, str]]:
    """Of every parameter with rows and columns that are not all alike a digest of its shape, type
    and some of its values."""
    found = []
    for place, parameter in places(stages):
        numbers = plain(parameter)
        if numbers.ndim > 1 and numbers.numel() and not numbers.is_meta:
            row = some_values(numbers)
            if bool((row != row[0]).any()):
                words = f"{tuple(parameter.shape)} {parameter.dtype} {row.tolist()}"
                found.append((place, sha256(words.encode()).hexdigest()[:16]))
    return found


def equal_values(
    graph: StageGraph, cards: Sequence[Sequence[tuple[TiedPlace, str]]], ties: Iterable[Tie]
) -> list[list[TiedPlace]]:
    """Groups of places of several stages that start equal, and that no tie joins; one place for
    each stage."""
    tied = {place: tie.name for tie in ties for place in tie.places}
    groups: dict[str, dict[Any, TiedPlace]] = {}
    for card in cards:
        for place, digest in card:
            own = place._replace(pipeline=graph.original(place.pipeline))
            groups.setdefault(digest, {}).setdefault(tied.get(place, own), own)
    found = [list(group.values()) for group in groups.values()]
    return [group for group in found if len({place[:2] for place in group}) > 1]


def same_objects(groups: Iterable[Sequence[TiedPlace]], build: Build) -> list[list[TiedPlace]]:
    """Those of the groups' places that are one `Parameter` where one process builds both stages,
    by the first of each group: there the model holds it once."""
    found = []
    for group in groups:
        first, *others = group
        with torch.random.fork_rng(devices=[]):
            one = _built(first, build)
            same = [place for place in others if one is not None and _built(place, build) is one]
        if same:
            found.append([first, *same])
    return found


def _built(place: TiedPlace, build: Build) -> nn.Parameter | None:
    module = build(StageId(*place[:2]))
    return dict(module.named_parameters(remove_duplicate=False)).get(place.name)


def doubtful(
    equal: Iterable[list[TiedPlace]], same: Iterable[list[TiedPlace]], asked: bool
) -> list[list[TiedPlace]]:
    """Those of the groups that a user should hear of: not those that are the same, and where the
    model was asked not those with one name in all stages."""
    known = {place for group in same for place in group}
    left = [group for group in equal if not known.intersection(group)]
    return [group for group in left if not asked or len({place.name for place in group}) > 1]


def equal_words(graph: StageGraph, groups: Sequence[Sequence[TiedPlace]]) -> str:
    """The warning."""
    first = " and ".join(f"`{label(graph, place)}`" for place in groups[0][:2])
    more = f" (and {len(groups) - 1} more like these)" if len(groups) > 1 else ""
    return (
        f"{first}{more} start with the same values, and are two parameters here: each is trained "
        "by itself. If they are one in your model, declare it: `tied` in the stages' modules, or "
        "`ties=`; `ties={}` if not"
    )
