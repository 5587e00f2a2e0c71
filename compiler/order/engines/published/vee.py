"""Two stages per rank: down the ranks and back up."""

from collections.abc import Iterator

from stretto.compiler.order.engines.published import building_blocks
from stretto.compiler.order.engines.published.writer import RankWriter, Writer, dualpipe_steps
from stretto.compiler.order.kernels.instance import SearchInstance
from stretto.compiler.order.kernels.op_classes import backward_of, forward_of, weight_of


def schedules(instance: SearchInstance, lines: list[list[int]]) -> Iterator[tuple[str, Writer]]:
    """Name and writer of every published schedule for two stages per rank, down and back up."""
    line, ranks = lines[0], instance.ranks
    many = instance.count[forward_of(line[0])]

    def straight(r: int, pen: RankWriter) -> None:
        """All forwards, then all backwards, stage by stage."""
        for stage in (line[r], line[2 * ranks - 1 - r]):
            for _ in range(many):
                pen.f(stage)
        if instance.count[backward_of(line[0])]:
            for stage in (line[2 * ranks - 1 - r], line[r]):
                for _ in range(many):
                    pen.b(stage)

    yield "gpipe", straight
    if instance.count[backward_of(line[0])]:

        def zb_v(r: int, pen: RankWriter) -> None:
            _zb_v(pen, r, ranks, many, line[r], line[2 * ranks - 1 - r])

        yield "zb_v", zb_v
        if instance.count[weight_of(line[0])] and instance.size <= building_blocks.LARGEST:
            yield "v_half", _repeated(building_blocks.v_half(ranks), many, line)
            yield "v_min", _repeated(building_blocks.v_min(ranks), many, line)
        if many >= 2 * ranks:
            size = 2 * ranks

            def dualpipe_v(r: int, pen: RankWriter) -> None:
                dualpipe_steps(pen, r, size, many, line[r], line[2 * ranks - 1 - r], True)

            yield "dualpipe_v", dualpipe_v


def _repeated(block: building_blocks.BuildingBlock, many: int, line: list[int]) -> Writer:
    """The schedule that repeats the building block on the stages of the line."""
    orders = building_blocks.orders(block, many)

    def write(r: int, pen: RankWriter) -> None:
        down, up = line[r], line[-1 - r]
        classes = (
            forward_of(down),
            forward_of(up),
            backward_of(up),
            backward_of(down),
            weight_of(up),
            weight_of(down),
        )
        pen.units.extend((classes[kind],) for kind in orders[r])

    return write


def _zb_v(pen: RankWriter, r: int, ranks: int, many: int, down: int, up: int) -> None:
    """Qi et al., "Zero Bubble Pipeline Parallelism", section 6; F, I, W alternate."""
    split = pen.instance.count[weight_of(down)] > 0
    most = max(2 * ranks - 1, many)
    f_down, f_up = 2 * (ranks - r) - 1 + r, r + ranks - r
    for _ in range(2 * (ranks - r) - 1):
        pen.f(down)
    for _ in range(r):
        pen.f(up)
        pen.f(down)
    for _ in range(ranks - r):
        pen.f(up)
        pen.b(up)
    while f_up < f_down or f_down < most:
        if f_down < most:
            pen.f(down)
            f_down += 1
        pen.b(down)
        pen.f(up)
        f_up += 1
        pen.b(up)
    for _ in range(r):
        pen.i(down)
        pen.i(up)
    later = [stage for stage in pen.waiting if stage == up]
    early = [stage for stage in pen.waiting if stage == down]
    pen.waiting.clear()
    for _ in range(ranks - r):
        pen.i(down)
        early.append(pen.waiting.pop() if pen.waiting else down)
        if split:
            pen.units.append((weight_of(early.pop(0)),))
    if split:
        pen.units.extend((weight_of(stage),) for stage in later + early)
