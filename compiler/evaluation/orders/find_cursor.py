"""Which stage of the rank a request means."""

from stretto.compiler.diagnostics.diagnostic import Label
from stretto.compiler.diagnostics.wording import listed
from stretto.compiler.evaluation.expressions.values import show
from stretto.compiler.evaluation.orders.request_errors import elsewhere
from stretto.compiler.evaluation.orders.resolver import AnyCursor, RankResolver, Request
from stretto.compiler.evaluation.reports import eval_error


def find_cursor(resolver: RankResolver[AnyCursor], request: Request) -> AnyCursor | None:
    """The stage that is meant; None if it is optional and there is none here."""
    kind, p, s = request.kind, request.pipeline, request.stage
    optional, span = request.optional, request.span
    if p is not None and s is not None:
        cursor = resolver.cursors.get((p, s))
        if cursor is None:
            raise elsewhere(resolver, request, p, s)
        return with_backward(request, cursor)
    if p is None:
        fit = [
            q for q in resolver.cursors_of if kind == "F" or not resolver.pipelines[q].forward_only
        ]
        if len(fit) != 1:
            return _no_pipeline(resolver, request, fit)
        p = fit[0]
        if s is not None:
            cursor = resolver.cursors.get((p, s))
            if cursor is None:
                raise elsewhere(resolver, request, p, s)
            return cursor
    cursors = resolver.cursors_of.get(p, [])
    if len(cursors) == 1:
        return with_backward(request, cursors[0])
    name = resolver.pipelines[p].name
    if not cursors:
        if optional:
            return None
        raise eval_error(
            "wrong-rank",
            f"rank {resolver.rank} holds no stage of `{name}`",
            span,
            notes=(
                f"`{name}` is on {listed('rank', sorted(set(resolver.pipelines[p].ranks)), 4, 1)}",
            ),
        )
    which = " or ".join(f"`{request.what} {name}[{t.stage}]`" for t in cursors[:4])
    raise eval_error(
        "ambiguous",
        f"rank {resolver.rank} holds {len(cursors)} stages of `{name}`: which `{request.what}`?",
        span,
        help=f"say {which}",
    )


def with_backward(request: Request, cursor: AnyCursor) -> AnyCursor:
    """The cursor, whose pipeline must have a backward if the request is of one."""
    if request.kind != "F" and cursor.pipeline.forward_only:
        raise eval_error(
            "no-such-operation",
            f"`{cursor.pipeline.name}` is `forward only` and has no `{request.what}`",
            Label(request.span),
            Label(cursor.pipeline.declaration.stated_at["forward only"], "no backward here"),
        )
    return cursor


def _no_pipeline(
    resolver: RankResolver[AnyCursor], request: Request, fit: list[int]
) -> AnyCursor | None:
    """None or several pipelines fit: raises, unless an optional request may find none."""
    if fit:
        which = " or ".join(f"`{request.what} {resolver.pipelines[q].name}`" for q in fit[:4])
        raise eval_error(
            "ambiguous",
            f"rank {resolver.rank} holds stages of {len(fit)} pipelines: which `{request.what}`?",
            request.span,
            help=f"say {which}",
        )
    if request.optional and request.stage is None:
        return None
    if resolver.cursors:
        with_backward(request, next(iter(resolver.cursors.values())))
    raise eval_error("wrong-rank", f"rank {resolver.rank} holds no stage", request.span)


def check_held(resolver: RankResolver[AnyCursor], request: Request) -> None:
    """Raises where the request names a stage or a pipeline that the rank does not hold."""
    p, s = request.pipeline, request.stage
    if p is not None and s is not None:
        if (p, s) not in resolver.cursors:
            raise elsewhere(resolver, request, p, s)
    elif p is not None:
        if p not in resolver.cursors_of and not request.optional:
            raise eval_error(
                "wrong-rank",
                f"rank {resolver.rank} holds no stage of `{resolver.pipelines[p].name}`",
                request.span,
            )
    elif s is not None and not any(stage == s for _, stage in resolver.cursors):
        raise eval_error(
            "wrong-rank", f"rank {resolver.rank} does not hold a stage {show(s)}", request.span
        )
