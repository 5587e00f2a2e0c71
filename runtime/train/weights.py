"""How much each loss of a step counts where a step has several batches: over all of them, not over
each by itself."""

from collections.abc import Sequence
from typing import Any

from stretto.runtime.given import StepArguments, model_input
from stretto.runtime.microbatches import ModelGiven, model_microbatches
from stretto.runtime.train.build import RankTraining

Totals = dict[str, float]
"""What the weights of a model's micro-batches are divided by, by the name of its pipeline."""


def weight_totals(training: RankTraining, batches: Sequence[tuple[Any, Any]]) -> Any:
    """The sum of the weights of all micro-batches of the batches, as `weight_total` of a step takes
    it; None where there is one batch, whose own weights say it. Raises `PipelineError` where they
    cannot be cut or weighed."""
    if len(batches) == 1:
        return None
    executor = training.executor
    graph, totals = executor.plan.graph, Totals()
    for model in graph.originals():
        total = 0.0
        for x, target in batches:
            given = StepArguments((x,), {}, target)
            own = model_input(graph, given, executor.batching, model)
            whole = ModelGiven(own, given, executor.batching, judged=True)
            for part in model_microbatches(graph, model, whole, {}).values():
                total += sum(judging.share.weight for judging in part.judging)
        totals[graph.spec.pipelines[model].name] = total
    return totals if len(totals) > 1 else next(iter(totals.values()))
