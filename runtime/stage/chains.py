"""From the chains of a plan to those of a rank's stages, ready to run. In come the rank's part of
the plan and its stages; out comes, where the plan cuts them into parts, a `PartChain` for each.
What cannot be right for parts is refused here, by name."""

from collections.abc import Callable, Mapping

from stretto.compiler.program.program import NONE, Operation
from stretto.runtime.errors import PipelineError
from stretto.runtime.rank_program import RankPlan
from stretto.runtime.stage.part_chain import PartChain
from stretto.runtime.stage.part_rules import PartRules
from stretto.runtime.stage.parts import ChainLink, PartName, stage_parts
from stretto.runtime.stage.stage_module import StageModule
from stretto.runtime.stage.wrappers import sharded_parts
from stretto.runtime.topology import StageId, shown


def part_chains(plan: RankPlan, stages: Mapping[StageId, StageModule]) -> dict[StageId, PartChain]:
    """The chain of every stage of this rank; none where the plan has no parts. Raises
    `PipelineError` where a stage declares others than the plan has, or cannot be run in parts."""
    if not plan.spec.parts:
        return {}
    links = {stage: _links(plan, stage) for stage in stages}
    streams = {link.stream for own in links.values() for link in own}
    modules = {one.name: one.module for one in stages.values()}
    rules = PartRules(modules, ordered=len(streams) == 1)
    found = {}
    for stage, module in stages.items():
        parts = stage_parts(module.module, links[stage], module.name)
        _refuse(module)
        found[stage] = PartChain(module, parts, rules, _notation(plan, stage))
    return found


def _notation(plan: RankPlan, stage: StageId) -> Callable[[str, int, int], str]:
    def show(kind: str, microbatch: int, part: int) -> str:
        return shown(plan.spec, Operation(kind, *stage, microbatch, NONE, part))

    return show


def _links(plan: RankPlan, stage: StageId) -> list[ChainLink]:
    found = []
    for part in plan.spec.parts[stage.pipeline][stage.stage]:
        layer = None if part.layer == NONE else part.layer
        found.append(ChainLink(PartName(part.name, layer), plan.spec.streams[part.stream]))
    return found


def _refuse(stage: StageModule) -> None:
    """Raises `PipelineError` for what a stage may have, and one in parts not yet."""
    module = stage.module
    whole = "run it by a plan that was compiled with `--whole`"
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    for there, what in (
        (stage.own.stores, "a WeightGradStore, which is one for all streams"),
        (stage.own.builder, "a `dw_builder`, which knows whole backwards alone"),
        (sharded_parts(module), "parameters that `fully_shard` has sharded"),
        (hooks, "forward hooks on the whole stage, which parts never call"),
        (module._backward_hooks, "backward hooks on the whole stage, which parts never call"),
    ):
        if there:
            raise PipelineError(
                f"the plan cuts `{stage.name}` into parts, and its module has {what}: take that "
                f"away, or {whole}"
            )
