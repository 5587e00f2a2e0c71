"""Pipelines, evaluated when all of the file is known: on which ranks their stages are, which
micro-batches each copy takes, what they feed."""

from typing import Any

from stretto.compiler.diagnostics.diagnostic import Label
from stretto.compiler.evaluation.chains import StageChains
from stretto.compiler.evaluation.copies import first_microbatches, matches_original
from stretto.compiler.evaluation.declared import Declarations, PipelineDecl
from stretto.compiler.evaluation.expressions.values import show
from stretto.compiler.evaluation.feeds import check_no_ring, feeds_of
from stretto.compiler.evaluation.reports import (
    AlreadyReported,
    EvalError,
    Reports,
    diagnosis,
    eval_error,
)
from stretto.compiler.evaluation.resolved import ResolvedPipeline
from stretto.compiler.problem.spec import NONE


def resolve_pipelines(
    declared: Declarations, chains: StageChains | None, reports: Reports
) -> tuple[ResolvedPipeline, ...] | None:
    """All pipelines with their stages placed, and their `chains`, or None where something is wrong
    with one."""
    before = reports.count
    total, ranks = declared.microbatches, declared.ranks
    firsts = first_microbatches(declared, reports)
    pipelines = []
    for new in declared.pipelines:
        alike = matches_original(new, reports)
        where = _place(new, ranks, reports) if alike else None
        feeds = feeds_of(new, declared.by_name, reports)
        model = (new.original or new).model
        microbatches = new.value.microbatches
        if where is None or microbatches is None:
            continue
        if total is not None and microbatches > total:
            reports.add_for_values(
                diagnosis(
                    "out-of-range",
                    f"`{new.name.text}` has {microbatches} micro-batches, and the step only "
                    f"{total}",
                    Label(new.stated_at.get("microbatches", new.name.span)),
                    Label(declared.stated_at["microbatches"], "the step's"),
                )
            )
        pipelines.append(
            ResolvedPipeline(
                new,
                where,
                microbatches,
                firsts[new.value.index],
                NONE if new.original is None else new.original.value.index,
                model.name if model else (new.original or new).name.text,
                feeds,
                chains.parts[new.value.index] if chains else (),
            )
        )
    check_no_ring(pipelines, reports)
    complete = len(pipelines) == len(declared.pipelines) and ranks is not None and total is not None
    return tuple(pipelines) if complete and reports.count == before else None


def _place(new: PipelineDecl, ranks: int | None, reports: Reports) -> tuple[int, ...] | None:
    """The rank of every stage."""
    stages = new.value.stages
    if stages is None or ranks is None:
        return None
    if new.place is None:
        return tuple(s % ranks for s in range(stages))
    place = new.place
    env: list[Any] = [None] * place.size
    env[place.stages] = stages
    where = []
    for stage in range(stages):
        env[place.stage] = stage
        try:
            rank = place.code(env)
            if not 0 <= rank < ranks:
                message = f"stage {stage} of `{new.name.text}` would stand on rank {show(rank)}"
                round_ = f"`place {place.name} -> {place.plain or '(…)'} % ranks`"
                raise eval_error(
                    "out-of-range",
                    message,
                    place.span,
                    notes=(f"there are ranks 0 to {ranks - 1}",),
                    help=f"{round_} goes round the ranks",
                )
            where.append(rank)
        except EvalError as error:
            reports.add_repeated(error.diagnostic, f"{place.name} = {stage}")
            if len(where) < stage - 100:
                break
        except AlreadyReported:
            return None
    return tuple(where) if len(where) == stages else None
