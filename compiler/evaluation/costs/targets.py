"""Which pipelines and operations a `cost`, `activation` or `rule` names: a pipeline by its name,
the rest by `[stage, microbatch, slice, layer]`."""

from typing import NamedTuple

from stretto.compiler.diagnostics.diagnostic import Label
from stretto.compiler.evaluation.expressions.compile import compile_whole
from stretto.compiler.evaluation.expressions.scope import (
    Constant,
    ErrorBinding,
    Scope,
    report_wrong_kind,
)
from stretto.compiler.evaluation.expressions.values import Env, PipelineValue, show
from stretto.compiler.evaluation.reports import EvalError, eval_error
from stretto.compiler.evaluation.resolved import ResolvedPipeline
from stretto.compiler.language import syntax as s


class Indices(NamedTuple):
    """The numbers inside `[ ]`; None where one is left out."""

    stage: int | None
    microbatch: int | None
    slice: int | None
    layer: int | None


class CompiledIndex:
    """The compiled `[stage, microbatch, slice, layer]` of a statement, in which `stages` is a
    pipeline's number of stages."""

    def __init__(self, mention: s.Mention | s.Activation | s.Kept, scope: Scope):
        inside = scope.inner()
        self.stages = inside.define_word("stages", mention.span)
        self.codes = [
            None if e is None else compile_whole(e, inside, f"a {what}")
            for e, what in (
                (mention.stage, "stage"),
                (getattr(mention, "microbatch", None), "micro-batch"),
                (getattr(mention, "slice", None), "slice"),
                (getattr(mention, "layer", None), "layer"),
            )
        ]

    def at(self, env: Env, stages: int) -> Indices:
        """The numbers in a pipeline with so many stages. Raises `EvalError`."""
        env[self.stages] = stages
        return Indices(*[None if code is None else code(env) for code in self.codes])


def find_pipeline(
    word: s.Word, scope: Scope, pipelines: tuple[ResolvedPipeline, ...]
) -> ResolvedPipeline | None:
    """The pipeline of this name; None where there is none, which is then reported, or where no
    pipeline could be placed."""
    found = scope.find(word.text)
    if isinstance(found, Constant) and isinstance(found.value, PipelineValue):
        return pipelines[found.value.index] if pipelines else None
    if found is None:
        scope.report_unknown(word, "no pipeline has this name")
    elif not isinstance(found, ErrorBinding):
        report_wrong_kind(scope.reports, word, "a pipeline", found.span)
    return None


def matching_pipelines(
    word: s.Word | None, scope: Scope, pipelines: tuple[ResolvedPipeline, ...]
) -> list[ResolvedPipeline]:
    """The named pipeline, or all where none is named."""
    if word is None:
        return list(pipelines)
    p = find_pipeline(word, scope, pipelines)
    return [] if p is None else [p]


def no_such_target(
    mention: s.Mention | s.Activation | s.Kept,
    places: CompiledIndex,
    env: Env,
    among: list[ResolvedPipeline],
    slices: int,
) -> EvalError:
    """The error for an index that is out of range in all pipelines that a statement names."""
    p = max(among, key=lambda p: len(p.ranks))
    who = f"`{p.name}`" if len(among) == 1 else ""
    stage, microbatch, slice_, _ = places.at(env, len(p.ranks))
    if stage is not None and not 0 <= stage < len(p.ranks):
        return no_such_index(who, "stage", stage, len(p.ranks), mention.stage)
    assert isinstance(mention, s.Mention)
    if microbatch is not None and not 0 <= microbatch < p.microbatches:
        return no_such_index(who, "micro-batch", microbatch, p.microbatches, mention.microbatch)
    assert mention.slice is not None
    return no_such_index("", "slice", slice_ or 0, slices, mention.slice)


def check_place(mention: s.Mention, p: ResolvedPipeline, stage: int, microbatch: int) -> None:
    """Raises `EvalError` where the pipeline has no such stage or micro-batch."""
    who = f"`{p.name}`"
    if not 0 <= stage < len(p.ranks):
        raise no_such_index(who, "stage", stage, len(p.ranks), mention.stage)
    if not 0 <= microbatch < p.microbatches:
        raise no_such_index(who, "micro-batch", microbatch, p.microbatches, mention.microbatch)


def no_such_index(who: str, what: str, index: int, count: int, e: s.Expression | None) -> EvalError:
    """The error for a stage, micro-batch or slice that does not exist; `who` is the pipeline in
    words, or empty where no pipeline has it."""
    assert e is not None
    if not count:
        return eval_error(
            "no-such-operation",
            "micro-batches are not cut into slices here",
            e.span,
            help="split microbatch into 2 slices",
        )
    plural = {"stage": "stages", "micro-batch": "micro-batches", "slice": "slices"}[what]
    message = f"{who} has no {what} {show(index)}" if who else f"there is no {what} {show(index)}"
    there = f"there are {plural} 0 to {count - 1}" if count > 1 else f"there is only {what} 0"
    return eval_error("no-such-operation", message, Label(e.span, there))
