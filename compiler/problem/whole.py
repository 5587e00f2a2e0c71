"""Spec with parts → the same with every stage whole: for models whose stages have no parts. What
its parts cost and hold the stage does; orders are left to the caller."""

from collections.abc import Iterable

from msgspec.structs import replace

from stretto.compiler.problem.spec import (
    NONE,
    CostOverride,
    Costs,
    Operation,
    Part,
    Rule,
    Spec,
    Stage,
)


def whole_spec(spec: Spec) -> Spec:
    """No streams, no parts, no written orders. What a rule says of parts it says of the operations
    that they are of."""
    pipelines = tuple(
        [
            replace(
                line,
                stages=tuple(
                    [
                        _stage(stage, chain, spec.split_backward)
                        for stage, chain in zip(line.stages, spec.parts[p], strict=True)
                    ]
                ),
            )
            for p, line in enumerate(spec.pipelines)
        ]
    )
    return replace(
        spec,
        pipelines=pipelines,
        overlap=(),
        exceptions=tuple(_exceptions(spec)),
        rules=tuple(_rules(spec.rules)),
        order=("",) * spec.ranks,
        written=(),
        streams=(),
        parts=(),
        joined=(),
    )


def whole_of(operation: Operation) -> Operation:
    """The operation that this one is a part of."""
    return operation._replace(part=NONE)


def _stage(stage: Stage, chain: tuple[Part, ...], split: bool) -> Stage:
    """What a part's forward takes on top its W frees; where it has none, its I or B."""
    on_top = [one.activation for one in stage.parts]
    weighed = [
        grains for grains, part in zip(on_top, chain, strict=True) if part.stream == 0 or not split
    ]
    return replace(
        stage,
        activation=stage.activation + sum(on_top),
        kept=stage.kept + sum(weighed),
        parts=(),
    )


def _exceptions(spec: Spec) -> Iterable[CostOverride]:
    """Operations of which some part costs something else than its stage says."""
    costs = Costs(spec)
    for one in dict.fromkeys(whole_of(operation) for operation, _ in spec.exceptions):
        parts = range(len(spec.parts[one.pipeline][one.stage]))
        yield CostOverride(one, sum(costs.of(one._replace(part=part)) for part in parts))


def _rules(rules: Iterable[Rule]) -> Iterable[Rule]:
    """Each once, and none between parts of one operation."""
    seen = set()
    for later, earlier, at in rules:
        rule = Rule(whole_of(later), whole_of(earlier), at)
        if rule.later != rule.earlier and rule not in seen:
            seen.add(rule)
            yield rule
