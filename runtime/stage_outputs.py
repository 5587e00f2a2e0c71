"""The shapes that the ranks agree on before they exchange anything. Each rank infers what its own
stages give from what they are given, and posts it; so the shapes pass down the pipelines once, as
micro-batches will."""

from collections.abc import Mapping

from stretto.compiler.program.topology import KINDS
from stretto.runtime.coordination.peers import Peers
from stretto.runtime.microbatches import PipelineMicrobatches
from stretto.runtime.rank_context import RankContext
from stretto.runtime.stage.infer_outputs import ExampleInput, infer_outputs
from stretto.runtime.tensor_spec import TensorSpecs, carrying, from_json, to_json
from stretto.runtime.topology import StageGraph, StageId


class StageOutputs:
    """By stage the specs of its outputs, for every stage whose results this rank handles."""

    def __init__(self, graph: StageGraph, outputs: dict[StageId, TensorSpecs]):
        self.graph, self.outputs = graph, outputs
        self._gradients: dict[StageId, TensorSpecs] = {}

    def of_result(self, kind: str, stage: StageId) -> TensorSpecs:
        """The tensors of the result of an operation of this kind: of one that leaves activations
        the stage's outputs, else the gradients of all that the stage was given."""
        if KINDS[kind].leaves == "activation":
            return self.outputs[stage]
        if stage not in self._gradients:
            self._gradients[stage] = tuple(
                tensor
                for source in self.graph.sources[stage]
                for tensor in carrying(self.outputs[source])
            )
        return self._gradients[stage]

    def gradients_for(self, source: StageId, user: StageId) -> slice:
        """Which of the gradients that `user` sends back are those of the outputs of `source`."""
        first = 0
        for other in self.graph.sources[user]:
            many = len(carrying(self.outputs[other]))
            if other == source:
                return slice(first, first + many)
            first += many
        raise KeyError(source)


def agree_on_outputs(
    peers: Peers,
    context: RankContext,
    microbatches: Mapping[int, PipelineMicrobatches],
    number: int,
) -> StageOutputs:
    """Finds the outputs of all stages whose results this rank handles, of the first micro-batch of
    each pipeline; `number` tells this agreement from
    earlier ones. Raises `PipelineError` where a stage cannot run, `MissingKeys` where another rank
    does not come."""
    plan, graph = context.plan, context.plan.graph
    found: dict[StageId, TensorSpecs] = {}

    def key(stage: StageId) -> str:
        return f"outputs/{number}/{stage.pipeline}/{stage.stage}"

    def fetch(stages: list[StageId]) -> None:
        absent = [stage for stage in dict.fromkeys(stages) if stage not in found]
        values = peers.wait([key(stage) for stage in absent])
        found.update(zip(absent, map(from_json, values), strict=True))

    for stage in graph.in_order():
        if stage not in context.stages or not graph.users[stage]:
            continue
        fetch(graph.sources[stage])
        given = tuple(tensor for source in graph.sources[stage] for tensor in found[source])
        x = microbatches[stage.pipeline].of_stage(stage.stage, 0, len(given))
        own = context.stages[stage]
        label = f"`{graph.label(stage)}` on rank {plan.rank}"
        output = infer_outputs(own.module, ExampleInput(x, given, context.transport.device), label)
        if not own.learns:
            output = tuple(tensor._replace(gradient=False) for tensor in output)
        found[stage] = output
        peers.store.post(key(stage), to_json(output))

    users = [user for stage in plan.stages for user in graph.gradient_senders[stage]]
    fetch([source for stage in [*plan.stages, *users] for source in graph.sources[stage]])
    return StageOutputs(graph, found)
