"""`resolve`: from what an order block writes to one operation. What the text leaves out is
filled in here, and every operation is scheduled once."""

from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.orders.cursor import UNSCHEDULED, Cursor
from stretto.compiler.evaluation.orders.find_cursor import check_held, find_cursor, with_backward
from stretto.compiler.evaluation.orders.request_errors import (
    no_microbatch,
    no_slice,
    none_waits,
    runs_out,
    twice,
)
from stretto.compiler.evaluation.orders.resolver import Request, Resolver
from stretto.compiler.problem.spec import NONE, Kind, Operation, operation_of


def resolve(resolver: Resolver, request: Request, at: int) -> Operation | None:
    """Resolves the request and marks its operation as scheduled by the text `at` (an index of the
    Spec's spans). None if the request is optional and no operation is left. Raises `EvalError`."""
    kind, m = request.kind, request.microbatch
    if kind == "W" and m is None:
        return _oldest(resolver, request, at)
    cursor = None
    if request.stage is None:
        p = request.pipeline
        cursor = resolver.only if p is None else resolver.single.get(p)
    if cursor is None:
        cursor = find_cursor(resolver, request)
        if cursor is None:
            return None
    if kind == "F":
        number = cursor.next_forward
        scheduled = cursor.forward
    else:
        number = cursor.next_backward
        scheduled = cursor.backward
        if not scheduled:
            with_backward(request, cursor)
    if m is None and request.slice is None:
        total = len(scheduled)
        while number < total and scheduled[number] != UNSCHEDULED:
            number += 1
        if kind == "F":
            cursor.next_forward = number
        else:
            cursor.next_backward = number
        if number == total:
            if request.optional:
                return None
            raise runs_out(resolver, request, cursor)
    else:
        found = _numbered(resolver, request, cursor)
        if found is None:
            return None
        number = found
    return _schedule(resolver, kind, cursor, number, at, request.span)


def _numbered(resolver: Resolver, request: Request, cursor: Cursor) -> int | None:
    """The number of an operation whose micro-batch, slice or both are named."""
    kind, m, k, optional = request.kind, request.microbatch, request.slice, request.optional
    backward = kind != "F"
    scheduled = cursor.forward if kind == "F" else cursor.weight if kind == "W" else cursor.backward
    if m is not None and not 0 <= m < cursor.microbatches:
        raise no_microbatch(resolver, request, cursor, m)
    if k is not None and not 0 <= k < resolver.slices:
        raise no_slice(resolver, request, k)
    if m is None:
        assert k is not None
        number = cursor.next_of_slice(k, backward)
        if number is None and not optional:
            raise runs_out(resolver, request, cursor)
        return number
    cell = range(m * cursor.slices, (m + 1) * cursor.slices)
    last = -1
    for last in cell if k is None else (cursor.number(m, k, backward),):
        if scheduled[last] == UNSCHEDULED:
            return last
    if optional:
        return None
    raise twice(resolver, kind, cursor, last, scheduled[last], request.span)


def _oldest(resolver: Resolver, request: Request, at: int) -> Operation | None:
    """The weight gradient that waits longest among those that the request may mean."""
    p, s, k = request.pipeline, request.stage, request.slice
    if p is not None or s is not None:
        check_held(resolver, request)
    best: tuple[int, int] | None = None
    owner: Cursor | None = None
    for (q, stage), cursor in resolver.cursors.items():
        if (p is None or p == q) and (s is None or s == stage):
            waiting = cursor.oldest() if k is None else _oldest_slice(resolver, request, cursor, k)
            if waiting is not None and (best is None or waiting < best):
                best, owner = waiting, cursor
    if best is None or owner is None:
        if request.optional:
            return None
        raise none_waits(resolver, request)
    return _schedule(resolver, request.kind, owner, best[1], at, request.span)


def _oldest_slice(
    resolver: Resolver, request: Request, cursor: Cursor, k: int
) -> tuple[int, int] | None:
    """As `Cursor.oldest`, among the weight gradients of one slice."""
    if not 0 <= k < resolver.slices:
        raise no_slice(resolver, request, k)
    return cursor.oldest(k)


def _schedule(
    resolver: Resolver, kind: Kind, cursor: Cursor, number: int, at: int, span: Span
) -> Operation:
    """Marks the operation as scheduled by the text `at`, which stands at `span`."""
    if kind == "F":
        cursor.forward[number] = at
        microbatch, k = (number, 0) if cursor.slices == 1 else cursor.cell(number, False)
    else:
        if kind != "I":
            if cursor.weight[number] != UNSCHEDULED:
                raise twice(resolver, kind, cursor, number, cursor.weight[number], span)
            cursor.weight[number] = at
        if kind != "W":
            cursor.backward[number] = at
            if kind == "B":
                cursor.full[number] = 1
            else:
                resolver.inputs += 1
                cursor.wait((resolver.inputs, number))
        microbatch, k = (number, 0) if cursor.slices == 1 else cursor.cell(number, True)
    k = k if resolver.cut else NONE
    return operation_of((kind, cursor.pipeline.index, cursor.stage, microbatch, k, NONE))
