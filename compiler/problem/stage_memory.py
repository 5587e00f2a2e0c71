"""What a stage that is cut into parts holds for each of its micro-batches, by its parts: from the
Spec alone, for whoever has Programs and no Problem too."""

from typing import NamedTuple

from stretto.compiler.problem.spec import Operation, Part, Spec, Stage

PartOperation = tuple[str, int]
"""A kind, and the index of a part in its stage's chain."""


class StageHolding(NamedTuple):
    """Grains that are taken when the operation `taken_by` of a stage starts, and free when the last
    of `freed_by`, of the same micro-batch, has ended."""

    grains: int
    taken_by: PartOperation
    freed_by: tuple[PartOperation, ...]


def stage_holdings(spec: Spec, p: int, s: int, program: str = "train") -> list[StageHolding]:
    """All that one micro-batch holds on stage s of pipeline p in the Program of this name, the
    stage's own activation first, then those of its parts. What takes no grains is not there."""
    stage, chain = spec.pipelines[p].stages[s], spec.parts[p][s]
    if program == "train" and not spec.pipelines[p].forward_only:
        found = _trained(stage, chain, spec.split_backward)
    else:
        end = (("F", len(chain) - 1),)
        found = [StageHolding(stage.activation, ("F", 0), end)]
        found += [StageHolding(x.activation, ("F", k), end) for k, x in enumerate(stage.parts)]
    return [one for one in found if one.grains]


def _trained(stage: Stage, chain: tuple[Part, ...], split: bool) -> list[StageHolding]:
    """What backwards free: the chain's first part is the last of its mirror."""
    own: dict[int, tuple[PartOperation, ...]]
    if split:
        weights = tuple([("W", k) for k, part in enumerate(chain) if part.stream == 0])
        first = StageHolding(stage.activation - stage.kept, ("F", 0), (("I", 0),))
        kept = StageHolding(stage.kept, ("F", 0), (("I", 0), *weights))
        found = [first, kept]
        own = {k: (("I" if part.stream else "W", k),) for k, part in enumerate(chain)}
    else:
        found = [StageHolding(stage.activation, ("F", 0), (("B", 0),))]
        own = {k: (("B", k),) for k in range(len(chain))}
    own_rows = enumerate(stage.parts)
    return found + [StageHolding(x.activation, ("F", k), own[k]) for k, x in own_rows]


def of_microbatch(place: PartOperation, p: int, s: int, microbatch: int) -> Operation:
    """The operation of this kind and part for one micro-batch of the stage."""
    kind, part = place
    return Operation(kind, p, s, microbatch, part=part)
