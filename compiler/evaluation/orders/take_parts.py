"""`take_parts`: from what an order block writes to the parts that it means, where stages are cut.
What the text leaves out is filled in here, and every part is given once."""

from collections.abc import Iterator

from stretto.compiler.evaluation.orders.cursor import UNSCHEDULED
from stretto.compiler.evaluation.orders.find_cursor import check_held, find_cursor, with_backward
from stretto.compiler.evaluation.orders.part_cursor import PartCursor
from stretto.compiler.evaluation.orders.part_errors import (
    given_twice,
    no_microbatch_of,
    no_part_here,
    no_slices,
    no_weight_parts,
    none_left,
    none_waits_here,
)
from stretto.compiler.evaluation.orders.part_resolver import PartResolver, Taken
from stretto.compiler.evaluation.orders.resolver import Request


def take_parts(resolver: PartResolver, request: Request, at: int) -> Taken | None:
    """The parts that the request means, now given by the text `at` (an index of the Spec's spans);
    where they stand in the list is left to the caller. None if the request is optional and nothing
    is left. Raises `EvalError`."""
    if request.slice is not None:
        raise no_slices(request)
    if request.kind == "W" and request.microbatch is None:
        taken = _oldest(resolver, request)
    else:
        cursor = find_cursor(resolver, request)
        if cursor is None:
            return None
        with_backward(request, cursor)
        m = request.microbatch
        if m is not None and not 0 <= m < cursor.microbatches:
            raise no_microbatch_of(resolver, request, cursor, m)
        find = _whole if request.part is None else _part
        taken = find(resolver, request, cursor)
    if taken is not None:
        for kind, part in taken.parts:
            taken.cursor.give(kind, part, taken.microbatch, at)
    return taken


def _whole(resolver: PartResolver, request: Request, cursor: PartCursor) -> Taken | None:
    kind, m = request.kind, request.microbatch
    own = cursor.own[kind]
    if not own:
        if request.optional:
            return None
        raise no_weight_parts(request, cursor)
    if m is None:
        m = cursor.next.get((kind, None, None), 0)
        while m < cursor.microbatches and not cursor.untouched(kind, m):
            m += 1
        cursor.next[kind, None, None] = m
        if m == cursor.microbatches:
            if request.optional:
                return None
            raise none_left(resolver, request, cursor)
    elif not cursor.untouched(kind, m):
        if request.optional:
            return None
        raise given_twice(resolver, request, cursor, m, None)
    return Taken(cursor, kind, m, own)


def _part(resolver: PartResolver, request: Request, cursor: PartCursor) -> Taken | None:
    kind, m, name = request.kind, request.microbatch, request.part
    assert name is not None
    some = cursor.candidates(kind, name, request.layer)
    if not some:
        if request.optional:
            return None
        raise no_part_here(resolver, request, cursor)
    given = cursor.given[kind]
    if m is None:
        key = kind, name, request.layer
        m = cursor.next.get(key, 0)
        while m < cursor.microbatches and all(given[m][k] != UNSCHEDULED for k in some):
            m += 1
        cursor.next[key] = m
        if m == cursor.microbatches:
            if request.optional:
                return None
            raise none_left(resolver, request, cursor)
    for k in some:
        if given[m][k] == UNSCHEDULED:
            return Taken(cursor, kind, m, ((kind, k),))
    if request.optional:
        return None
    raise given_twice(resolver, request, cursor, m, some[-1])


def _oldest(resolver: PartResolver, request: Request) -> Taken | None:
    """The weight gradient, or the part of one, that waits longest among those that the request may
    mean."""
    if request.pipeline is not None or request.stage is not None:
        check_held(resolver, request)
    found = min(_waiting(resolver, request), key=lambda one: one[0], default=None)
    if found is not None:
        return found[1]
    if request.optional:
        return None
    raise none_waits_here(resolver, request)


def _waiting(resolver: PartResolver, request: Request) -> Iterator[tuple[int, Taken]]:
    """Of every stage, and of every part of the name that is asked for, the one that waits longest:
    the place of its input gradient in the list, and what it is."""
    p, s = request.pipeline, request.stage
    for (q, stage), cursor in resolver.cursors.items():
        if p not in (None, q) or s not in (None, stage) or "W" not in cursor.given:
            continue
        if request.part is None:
            oldest = cursor.oldest_whole()
            if oldest is not None:
                yield oldest[0], Taken(cursor, "W", oldest[1], cursor.own["W"])
            continue
        for k in cursor.candidates("W", request.part, request.layer):
            oldest = cursor.oldest_part(k)
            if oldest is not None:
                yield oldest[0], Taken(cursor, "W", oldest[1], (("W", k),))
