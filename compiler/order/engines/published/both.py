"""Two pipelines in opposite directions."""

from collections.abc import Iterator

from stretto.compiler.order.engines.published.writer import RankWriter, Writer, dualpipe_steps
from stretto.compiler.order.kernels.instance import SearchInstance
from stretto.compiler.order.kernels.op_classes import backward_of, forward_of


def schedules(instance: SearchInstance, lines: list[list[int]]) -> Iterator[tuple[str, Writer]]:
    """Name and writer of every published schedule for two pipelines in opposite directions, the
    shortest first: there may be time for no more."""
    down, up = lines
    ranks = len(down)
    each = [instance.count[forward_of(line[0])] for line in lines]
    if not all(instance.count[backward_of(line[0])] for line in lines):
        return

    def ends(r: int) -> tuple[int, int, int]:
        """The distance to the nearer end, the stage of the pipeline that enters there, and the
        other's."""
        mirrored = ranks - 1 - r
        d = min(r, mirrored)
        near, far = (down[r], up[mirrored]) if r < ranks / 2 else (up[mirrored], down[r])
        return d, near, far

    def gems(r: int, pen: RankWriter) -> None:
        for _ in range(max(each)):
            for stage in (down[r], up[ranks - 1 - r]):
                pen.f(stage)
                pen.b(stage)

    def chimera(r: int, pen: RankWriter) -> None:
        d, near, far = ends(r)
        half = ranks // 2
        for _ in range(half - d):
            pen.f(near)
        for _ in range(-(-2 * max(each) // ranks)):
            for _ in range(d):
                pen.f(far)
                pen.f(near)
            for _ in range(half - d):
                pen.f(far)
                pen.b(far)
            for _ in range(d):
                pen.b(near)
                pen.b(far)
            for _ in range(half - d):
                pen.b(near)
                pen.f(near)

    if not ranks % 2 and each[0] == each[1] and each[0] >= ranks:
        for overlap in (True, False) if instance.pairs else (False,):

            def dualpipe(r: int, pen: RankWriter, overlap: bool = overlap) -> None:
                d, near, far = ends(r)
                dualpipe_steps(pen, d, ranks, each[0], near, far, overlap)

            yield "dualpipe", dualpipe
    if not ranks % 2:
        yield "chimera", chimera
    yield "gems", gems
