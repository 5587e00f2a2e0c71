"""Several stages per rank, round and round."""

from collections.abc import Callable, Iterator

from stretto.compiler.order.engines.published.writer import (
    RankWriter,
    Writer,
    one_forward_one_backward,
)
from stretto.compiler.order.kernels.instance import SearchInstance
from stretto.compiler.order.kernels.op_classes import backward_of, forward_of


def schedules(instance: SearchInstance, lines: list[list[int]]) -> Iterator[tuple[str, Writer]]:
    """Name and writer of every published schedule for several stages per rank, round and round."""
    line, ranks = lines[0], instance.ranks
    chunks, many = len(line) // ranks, instance.count[forward_of(line[0])]

    def visits(r: int, group: int, back: bool) -> list[int]:
        """The stages of place r in the order that groups of micro-batches visit them."""
        order = range(chunks - 1, -1, -1) if back else range(chunks)
        return [
            line[c * ranks + r]
            for g in range(-(-many // group))
            for c in order
            for _ in range(min(group, many - g * group))
        ]

    def write(group: int, warmup: Callable[[int], int], held: Callable[[int], int]) -> Writer:
        def writer(r: int, pen: RankWriter) -> None:
            forward, backward = visits(r, group, False), visits(r, group, True)
            one_forward_one_backward(pen, forward, backward, warmup(r), held(r))

        return writer

    if not instance.count[backward_of(line[0])]:
        for group in sorted({ranks, many, max(1, many // 2)}):
            yield "inference", write(group, lambda r: chunks * many, lambda r: 0)
        return
    groups = {ranks, many // max(1, many // ranks), ranks - 1, ranks - ranks // 4, ranks + 1}
    for group in sorted(g for g in groups if 0 < g <= many):
        ahead = (chunks - 1) * group
        far = lambda r, ahead=ahead: 2 * (ranks - 1 - r) + ahead  # noqa: E731
        near = lambda r, ahead=ahead: ranks - 1 - r + ahead  # noqa: E731
        yield "interleaved_1f1b", write(group, far, lambda r: 0)
        yield "interleaved_zero_bubble", write(group, near, lambda r: r)
        yield "interleaved_zero_bubble", write(group, far, lambda r: 2 * r)
        yield "interleaved_1f1b", write(group, near, lambda r: 0)
    yield "looped_bfs", write(many, lambda r: chunks * many, lambda r: 0)
