"""A causal language model → its pipeline stages. Each stage is the model's own decoder with only
its layers left in it, run by the model's own forward: masks, positions, attention and checkpoints
are what they are in the whole model. Parameters are the whole model's, under its own names."""

import copy
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from stretto.runtime.errors import PipelineError
from stretto.runtime.hf.families import Family, family_of


class HFStage(nn.Module):
    """Some layers of a model; `index` of `count` stages. The first is called with `input_ids`, the
    others with hidden states of (sequences, tokens, width); the last gives logits. All take the
    keywords of the model that every layer needs: `attention_mask` and `position_ids`. `tied` has
    the parameters that another stage has too, which the runtime keeps equal."""

    def __init__(self, decoder: nn.Module, head: nn.Module | None, place: tuple[int, int], at: str):
        super().__init__()
        self.index, self.count = place
        self.decoder_name = at
        self.tied: dict[str, str] = {}
        self.add_module(at, decoder)
        if head is not None:
            self.lm_head = head

    @property
    def decoder(self) -> nn.Module:
        """The model's decoder with the layers of this stage."""
        return self.get_submodule(self.decoder_name)

    def forward(
        self,
        x: Tensor | None = None,
        *,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Token numbers (in the first stage) or hidden states to hidden states or logits."""
        given = {"attention_mask": attention_mask, "position_ids": position_ids, "use_cache": False}
        if self.index == 0:
            hidden = self.decoder(input_ids=x if input_ids is None else input_ids, **given)
        else:
            hidden = self.decoder(inputs_embeds=x, **given)
        states: Tensor = hidden.last_hidden_state
        return self.lm_head(states) if self.index == self.count - 1 else states


def split(model: nn.Module, stages: int, layers: Sequence[int] | None = None) -> list[HFStage]:
    """The model as `stages` modules, first to last; `layers` says how many layers each has, by
    default as equal as can be, the later ones with more.

    The modules share the model's parameters: what is loaded into the one is in the other. A model
    on the meta device can be split, and each rank's stages be filled alone, with `fill`. An adapter
    of `peft` stays in its layers. Raises `PipelineError` where the family is not known or the
    numbers do not fit.
    """
    if hasattr(model, "get_base_model"):
        model = _without_peft(model)
    family = family_of(model)
    prefix: str = model.base_model_prefix  # type: ignore[assignment]
    decoder = model.get_submodule(prefix)
    many = len(decoder.get_submodule(family.layers))  # type: ignore[arg-type]
    bounds = _bounds(many, stages, layers)
    found = []
    for index, (first, end) in enumerate(pairwise(bounds)):
        last = index == stages - 1
        part = _part(decoder, family, range(first, end), (index == 0, last))
        head = model.get_submodule("lm_head") if last else None
        stage = HFStage(part, head, (index, stages), prefix)
        stage.train(model.training)
        found.append(stage)
    _declare_ties(found)
    return found


def _declare_ties(stages: Sequence[HFStage]) -> None:
    """Tells the stages which parameters they share, an embedding that is the head too."""
    places: dict[int, list[tuple[HFStage, str]]] = {}
    for stage in stages:
        for name, parameter in stage.named_parameters():
            places.setdefault(id(parameter), []).append((stage, name))
    for shared in places.values():
        if len(shared) > 1:
            for stage, name in shared:
                stage.tied[name] = shared[0][1]


def fill(stage: HFStage, state: Mapping[str, Tensor], device: torch.device | str) -> None:
    """Gives a stage that was cut on the meta device memory on `device` and its weights, out of the
    `state_dict` of the whole model or of a part of it that has them. Raises `PipelineError` where a
    weight is missing, or a buffer that no `state_dict` holds is one that its class cannot make."""
    stage.to_empty(device=device)
    unsaved = [
        (name, module, key)
        for name, module in stage.named_modules()
        for key in sorted(module._non_persistent_buffers_set)
        if module._buffers.get(key) is not None
    ]
    for _, module, key in unsaved:
        module.get_buffer(key).fill_(_UNMADE)
    for _, module, _ in unsaved:
        stage.decoder._init_weights(module)  # type: ignore[operator]
    unmade = [f"{name}.{key}" for name, module, key in unsaved if _is_unmade(module, key)]
    if unmade:
        raise PipelineError(f"no weights hold {unmade[0]}, and its class does not make it anew")
    missing = stage.load_state_dict(state, strict=False).missing_keys
    if missing:
        some = ", ".join(missing[:3])
        raise PipelineError(f"the weights lack {len(missing)} of stage {stage.index}: {some}")


_UNMADE = -77  # nothing that is computed: what is left of it was not made


def _is_unmade(module: nn.Module, key: str) -> bool:
    return bool((module.get_buffer(key) == _UNMADE).any())


def _without_peft(model: Any) -> nn.Module:
    """The model under peft's wrapper, its adapters in place."""
    if any(getattr(one, "is_prompt_learning", False) for one in model.peft_config.values()):
        raise PipelineError(
            "this adapter puts tokens of its own before the first layer: `split` takes adapters "
            "that live in the layers, LoRA for instance"
        )
    base: nn.Module = model.get_base_model()
    return base


def _bounds(many: int, stages: int, layers: Sequence[int] | None) -> list[int]:
    """Where the stages begin and end among the layers."""
    if stages < 1:
        raise PipelineError(f"a model cannot be split into {stages} stages")
    if layers is None:
        if stages > many:
            raise PipelineError(f"{many} layers cannot be split into {stages} stages")
        return [k * many // stages for k in range(stages + 1)]
    if len(layers) != stages or sum(layers) != many or min(layers) < 0:
        raise PipelineError(
            f"layers={list(layers)}: give {stages} numbers, one a stage, with the sum {many}"
        )
    return [0, *accumulate(layers)]


def _part(decoder: nn.Module, family: Family, own: range, ends: tuple[bool, bool]) -> nn.Module:
    """The decoder with some of its layers, under their numbers in the whole model; `ends`: whether
    it is the first stage, and the last."""
    part = _shallow(decoder)
    kept = nn.ModuleList()
    for k, layer in enumerate(decoder.get_submodule(family.layers).children()):
        if k in own:
            kept.add_module(str(k), layer)
    setattr(part, family.layers, kept)
    first, last = ends
    if not first:
        for name, stand_in in family.first.items():
            setattr(part, name, stand_in())
    if not last:
        setattr(part, family.last, nn.Identity())
    part.config = _config(decoder.config, own)
    return part


def _shallow(module: nn.Module) -> nn.Module:
    """A module of the same class and attributes with tables of its own: what is put into the one
    is not in the other."""
    made = copy.copy(module)
    for table in ("_parameters", "_buffers", "_modules"):
        made.__dict__[table] = dict(module.__dict__[table])
    return made


def _config(config: Any, own: range) -> Any:
    """The configuration of a decoder that has these layers alone: it counts them, and looks up
    their kinds by their place."""
    made = copy.copy(config)
    if getattr(config, "layer_types", None) is not None:
        made.layer_types = [config.layer_types[k] for k in own]
    made.num_hidden_layers = len(own)
    return made
