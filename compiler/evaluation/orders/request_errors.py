"""What is wrong with a request that cannot be resolved, in words. Each function makes the error for
its caller to raise."""

from stretto.compiler.diagnostics.diagnostic import Label
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.expressions.values import show
from stretto.compiler.evaluation.orders.counts import by_line, scheduled_at
from stretto.compiler.evaluation.orders.cursor import UNSCHEDULED, Cursor
from stretto.compiler.evaluation.orders.resolver import AnyCursor, RankResolver, Request, Resolver
from stretto.compiler.evaluation.reports import EvalError, SecondaryError, diagnosis, eval_error
from stretto.compiler.problem.spec import Kind


def elsewhere(resolver: RankResolver[AnyCursor], request: Request, p: int, s: int) -> EvalError:
    """Stage `s` of pipeline `p` does not exist, or is not on this rank."""
    pipeline = resolver.pipelines[p]
    name = f"{request.what} {pipeline.name}[{show(s)}]"
    if not 0 <= s < len(pipeline.ranks):
        return eval_error(
            "no-such-operation",
            f"there is no `{name}`",
            Label(request.span, f"`{pipeline.name}` has stages 0 to {len(pipeline.ranks) - 1}"),
        )
    fit = resolver.cursors_of.get(p) or [
        t for (_, stage), t in resolver.cursors.items() if stage == s
    ]
    here = " and ".join(f"`{request.kind} {t.pipeline.name}[{t.stage}]`" for t in fit[:4])
    help_ = f"rank {resolver.rank} has {here}" if fit else None
    return eval_error(
        "wrong-rank",
        f"`{name}` is on rank {pipeline.ranks[s]}, not on rank {resolver.rank}",
        request.span,
        help=help_,
    )


def runs_out(resolver: Resolver, request: Request, cursor: Cursor) -> EvalError:
    """All micro-batches of the stage are scheduled already."""
    p = cursor.pipeline
    what = "slices" if resolver.cut else "micro-batches"
    name = f"{request.kind} {p.name}[{cursor.stage}]"
    message = (
        f"rank {resolver.rank} runs out of {what} for `{name}`: this would be the "
        f"{_ordinal(cursor.total + 1)}, and there are {cursor.total}"
    )
    fewer = "--set" in resolver.microbatches_at(p.index).text
    help_ = "bound what counts them: `min(microbatches, …)`" if fewer else None
    return eval_error(
        "no-such-operation", message, Label(request.span), _count(resolver, cursor), help=help_
    )


def none_waits(resolver: Resolver, request: Request) -> EvalError:
    """No weight gradient is left for a `W`: too few `I` stand before it, or a `B` did it."""
    cursors = [
        cursor
        for (p, s), cursor in resolver.cursors.items()
        if request.pipeline in (None, p) and request.stage in (None, s)
    ]
    done = {kind: [at for t in cursors for at in scheduled_at(t, kind)] for kind in "IW"}
    whole = 0 < len(done["I"]) == sum(sum(cursor.full) for cursor in cursors)
    notes = [
        f"on rank {resolver.rank} `{kind}` ran {by_line(texts, resolver.span)} before it"
        for kind, texts in done.items()
        if texts and not whole
    ]
    help_ = "a `W` without a micro-batch takes the oldest `I` that has none yet"
    if whole:
        help_ = "`B` does its `W` already: leave the `W` out, or write `I` instead of `B`"
    message = (
        f"on rank {resolver.rank} no weight gradient{_whose(resolver, request)} is waiting here"
    )
    code = "no-such-operation"
    return SecondaryError(diagnosis(code, message, request.span, notes=notes, help=help_))


def no_microbatch(resolver: Resolver, request: Request, cursor: Cursor, m: int) -> EvalError:
    """The pipeline has no micro-batch `m`."""
    name = f"{request.kind} {cursor.pipeline.name}[{cursor.stage}, {show(m)}]"
    message = f"there is no `{name}`"
    return eval_error("no-such-operation", message, Label(request.span), _count(resolver, cursor))


def no_slice(resolver: Resolver, request: Request, k: int) -> EvalError:
    """Micro-batches have no slice `k`, or no slices at all."""
    if not resolver.cut:
        return eval_error(
            "no-such-operation",
            "micro-batches are not cut into slices here",
            request.span,
            help="split microbatch into 2 slices",
        )
    return eval_error(
        "no-such-operation",
        f"there is no slice {show(k)}: a micro-batch has slices 0 to {resolver.slices - 1}",
        request.span,
    )


def twice(
    resolver: Resolver, kind: Kind, cursor: Cursor, number: int, first: int, span: Span
) -> EvalError:
    """The operation is scheduled already, by the text `first`; `span` is where it is again."""
    microbatch, k = cursor.cell(number, kind != "F")
    name = resolver.name(cursor, (microbatch, k))
    before = kind
    if kind != "F":
        full = cursor.full[number]
        before = (
            "B" if full else "W" if kind == "W" or cursor.backward[number] == UNSCHEDULED else "I"
        )
        if kind == "B" and not full and cursor.weight[number] == first:
            before = "W"
    there = resolver.span(first)
    message = f"`{kind} {name}` runs twice on rank {resolver.rank}"
    if before != kind:
        message = (
            f"`{kind} {name}` on rank {resolver.rank} does again what `{before} {name}` has done"
        )
    if there == span:
        return eval_error("runs-twice", message, Label(span, "both times here"))
    return eval_error("runs-twice", message, Label(span), Label(there, "the first time"))


def _count(resolver: Resolver, cursor: Cursor) -> Label:
    """How many micro-batches there are, where that is declared."""
    p = cursor.pipeline
    span, as_set = resolver.microbatches_at(p.index)
    each = f", of {cursor.slices} slices each" if resolver.cut else ""
    text = f"`{p.name}` has micro-batches 0 to {cursor.microbatches - 1}{each}{as_set}"
    return Label(span, text)


def _whose(resolver: Resolver, request: Request) -> str:
    """` of `main[0]``: what a request for a `W` names, with a blank before it."""
    name = "" if request.pipeline is None else resolver.pipelines[request.pipeline].name
    stage = "" if request.stage is None else f"[{request.stage}]"
    return f" of `{name}{stage}`" if name or stage else ""


def _ordinal(n: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st."""
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n:,}{ending}"
