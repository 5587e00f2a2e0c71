"""References to operations in order blocks, compiled to code that makes a `Request`: the indices
that are written are computed when the reference is reached, those left out stay None."""

from collections.abc import Callable

from msgspec import Struct

from stretto.compiler.diagnostics.diagnostic import Diagnostic
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.expressions.compile import already_reported
from stretto.compiler.evaluation.expressions.ranges import LoopBudget
from stretto.compiler.evaluation.expressions.scope import (
    Constant,
    ErrorBinding,
    QueueSlot,
    Scope,
    Slot,
    report_wrong_kind,
)
from stretto.compiler.evaluation.expressions.values import Env, PipelineValue, pipeline
from stretto.compiler.evaluation.indices import compile_indices
from stretto.compiler.evaluation.orders.pair_costs import PairCosts
from stretto.compiler.evaluation.orders.resolver import Request
from stretto.compiler.evaluation.reports import Reports, backward_not_split, diagnosis, no_part
from stretto.compiler.language import syntax as s

RequestCode = Callable[[Env], Request]


class PartOrders(Struct, frozen=True):
    """What an order needs to know of stages that are cut into parts: what is wrong with a mention
    of one, if anything, and what parts cost."""

    check: Callable[[s.Mention], Diagnostic | None]
    costs: PairCosts


class OrderContext(Struct, frozen=True):
    """What compiling an order needs to know of the rest of the file; `parts` is None where stages
    are whole."""

    split: bool
    overlap: frozenset[str]
    forward_only: frozenset[int]
    budget: LoopBudget
    reports: Reports
    intern: Callable[[Span], int]
    parts: PartOrders | None = None


def compile_reference(mention: s.Mention, scope: Scope, context: OrderContext) -> RequestCode:
    """The code that computes the pipeline and the indices of a reference."""
    kind, optional, place = mention.kind, mention.optional, mention.span
    which = _which(mention, scope, context)
    if kind in "IW" and not context.split:
        context.reports.add_once("split B", backward_not_split(kind, place))
    elif mention.part is not None:
        wrong = context.parts.check(mention) if context.parts else no_part(kind, mention.part)
        if wrong is not None:
            context.reports.add(wrong)
    part = mention.part.text if mention.part else None
    stage, microbatch, slice_, layer = compile_indices(mention, scope)
    if stage is microbatch is slice_ is layer is None:
        if which is None or isinstance(which, int):
            fixed = Request(kind, which, None, None, None, optional, place, part)
            return lambda env: fixed
        return lambda env: Request(kind, which(env), None, None, None, optional, place, part)
    find = (lambda env: which) if which is None or isinstance(which, int) else which
    return lambda env: Request(
        kind,
        find(env),
        stage and stage(env),
        microbatch and microbatch(env),
        slice_ and slice_(env),
        optional,
        place,
        part,
        layer and layer(env),
    )


def _which(
    mention: s.Mention, scope: Scope, context: OrderContext
) -> int | Callable[[Env], int] | None:
    """The pipeline's index, None, or code that computes it."""
    word = mention.pipeline
    if word is None:
        return None
    found = scope.find(word.text)
    match found:
        case Constant(value) if type(value) is PipelineValue:
            if mention.kind != "F" and value.index in context.forward_only:
                message = f"`{value.name}` is `forward only` and has no `{mention.kind}`"
                context.reports.add(diagnosis("no-such-operation", message, mention.span))
            return value.index
        case Slot(index):
            return lambda env: pipeline(env[index], word.span).index
        case ErrorBinding():
            return already_reported
        case None:
            scope.report_unknown(word, "no pipeline has this name")
        case _:
            report_wrong_kind(
                scope.reports,
                word,
                "a pipeline",
                found.span,
                f"next {word.text}" if isinstance(found, QueueSlot) else None,
            )
    return already_reported
