"""What is wrong with a request for parts that cannot be taken, in words. Each function makes the
error for its caller to raise."""

from stretto.compiler.diagnostics.diagnostic import Label
from stretto.compiler.evaluation.expressions.values import show
from stretto.compiler.evaluation.orders.part_cursor import PartCursor
from stretto.compiler.evaluation.orders.part_resolver import PartResolver
from stretto.compiler.evaluation.orders.resolver import Request
from stretto.compiler.evaluation.reports import EvalError, SecondaryError, diagnosis, eval_error
from stretto.compiler.problem.spec import NONE


def none_left(resolver: PartResolver, request: Request, cursor: PartCursor) -> EvalError:
    """Every micro-batch of the stage has had what is asked for, or something of it."""
    name = f"{request.what} {cursor.pipeline.name}[{cursor.stage}{_layer(request)}]"
    whole = "" if request.part else ", in whole or in part"
    return eval_error(
        "no-such-operation",
        f"rank {resolver.rank} runs out of micro-batches for `{name}`: all "
        f"{cursor.microbatches} are given{whole}",
        Label(request.span),
        _count(resolver, cursor),
        help=f"write `{request.what.replace(request.kind, request.kind + '?', 1)}` where none may "
        "be left",
    )


def no_microbatch_of(
    resolver: PartResolver, request: Request, cursor: PartCursor, m: int
) -> EvalError:
    """The pipeline has no micro-batch `m`."""
    name = f"{request.what} {cursor.pipeline.name}[{cursor.stage}, {show(m)}]"
    return eval_error(
        "no-such-operation", f"there is no `{name}`", Label(request.span), _count(resolver, cursor)
    )


def no_slices(request: Request) -> EvalError:
    """A slice of an operation that is cut into parts."""
    return eval_error(
        "no-such-operation",
        "micro-batches are not cut into slices here",
        request.span,
        help=f"leave the slice out: `{request.what}[stage, microbatch]`",
    )


def no_part_here(resolver: PartResolver, request: Request, cursor: PartCursor) -> EvalError:
    """The stage has no part of this name, or none of this layer."""
    layers = [cursor.chain[k].layer for k in cursor.named.get(request.part or "", ())]
    where = f"`{cursor.pipeline.name}[{cursor.stage}]`"
    if not layers:
        has = f"{where} has {_listed(cursor)}"
    elif layers == [NONE]:
        has = f"in {where} it stands outside of layers"
    else:
        has = f"{where} has layers {layers[0]} to {layers[-1]} of it"
    name = f"{request.what} {cursor.pipeline.name}[{cursor.stage}{_layer(request)}]"
    return eval_error("no-such-operation", f"there is no `{name}`", Label(request.span, has))


def no_weight_parts(request: Request, cursor: PartCursor) -> EvalError:
    """A whole W of a stage without a part on `compute`."""
    name = f"W {cursor.pipeline.name}[{cursor.stage}]"
    message = f"there is no `{name}`: no part of this stage is on `compute`"
    return eval_error("no-such-operation", message, request.span)


def none_waits_here(resolver: PartResolver, request: Request) -> EvalError:
    """No weight gradient, or none of this part, is left for a `W` without a micro-batch."""
    whose = "" if request.pipeline is None else resolver.pipelines[request.pipeline].name
    stage = "" if request.stage is None else f"[{request.stage}]"
    of = f" of `{whose}{stage}`" if whose or stage else ""
    layer = "" if request.layer is None else f" of layer {show(request.layer)}"
    what = "whole weight gradient" if request.part is None else f"`{request.what}`{layer}"
    help_ = (
        "a whole `W` without a micro-batch takes the oldest `I` of which every part stands before "
        "it, and no part of whose `W` does"
        if request.part is None
        else f"a `{request.what}` without a micro-batch takes the oldest `I.{request.part}` that "
        "has none yet"
    )
    message = f"on rank {resolver.rank} no {what}{of} is waiting here"
    return SecondaryError(diagnosis("no-such-operation", message, request.span, help=help_))


def given_twice(
    resolver: PartResolver, request: Request, cursor: PartCursor, m: int, part: int | None
) -> EvalError:
    """The part, or something of the whole operation, is given already."""
    if part is None:
        before = cursor.first_given(request.kind, m)
        assert before is not None
        kind, part = before
        name = resolver.whole_name(request.kind, cursor, m)
        again = resolver.part_name(kind, cursor, part, m)
        message = f"`{name}` on rank {resolver.rank} runs `{again}` a second time"
    else:
        kind = request.kind
        name = resolver.part_name(kind, cursor, part, m)
        message = f"`{name}` runs twice on rank {resolver.rank}"
    there = resolver.span(cursor.given[kind][m][part])
    if there == request.span:
        return eval_error("runs-twice", message, Label(request.span, "both times here"))
    return eval_error("runs-twice", message, Label(request.span), Label(there, "the first time"))


def _layer(request: Request) -> str:
    return "" if request.layer is None else f", layer {show(request.layer)}"


def _listed(cursor: PartCursor) -> str:
    names = [f"`{name}`" for name in cursor.named]
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")


def _count(resolver: PartResolver, cursor: PartCursor) -> Label:
    """How many micro-batches there are, where that is declared."""
    p = cursor.pipeline
    span, as_set = resolver.microbatches_at(p.index)
    return Label(span, f"`{p.name}` has micro-batches 0 to {cursor.microbatches - 1}{as_set}")
