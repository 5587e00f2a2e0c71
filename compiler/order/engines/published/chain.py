"""One stage per rank."""

from collections.abc import Callable, Iterator

from stretto.compiler.order.engines.published.writer import (
    RankWriter,
    Writer,
    one_forward_one_backward,
    room,
)
from stretto.compiler.order.kernels.instance import SearchInstance
from stretto.compiler.order.kernels.op_classes import backward_of, forward_of


def schedules(instance: SearchInstance, lines: list[list[int]]) -> Iterator[tuple[str, Writer]]:
    """Name and writer of every published schedule for one stage per rank."""
    line = lines[0]
    ranks, many = len(line), instance.count[forward_of(line[0])]
    forward_only = not instance.count[backward_of(line[0])]

    def write(warmup: Callable[[int], int], held: Callable[[int], int]) -> Writer:
        def writer(r: int, pen: RankWriter) -> None:
            visits = [line[r]] * many
            one_forward_one_backward(pen, visits, visits, warmup(r), held(r))

        return writer

    if forward_only:
        yield "inference", write(lambda r: many, lambda r: 0)
        return
    more = instance.slices - 1
    yield "gpipe", write(lambda r: many, lambda r: 0)
    yield "one_f_one_b", write(lambda r: ranks - 1 - r + more, lambda r: 0)
    yield "eager_1f1b", write(lambda r: 2 * (ranks - 1 - r) + more, lambda r: 0)
    yield "zb_h1", write(lambda r: ranks - 1 - r + more, lambda r: r)
    yield "zb_h2", write(lambda r: 2 * (ranks - 1 - r) + more, lambda r: 2 * r)

    def tight(r: int) -> int:
        return min(2 * (ranks - 1 - r), room(instance, line[r]) - 1)

    yield "eager_1f1b", write(tight, lambda r: 0)
    yield "zb_h2", write(tight, lambda r: min(2 * r, room(instance, line[r]) - 1 - tight(r)))
    yield (
        "one_f_one_b",
        write(lambda r: min(ranks - 1 - r, room(instance, line[r]) - 1), lambda r: 0),
    )
