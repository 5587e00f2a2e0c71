"""The schedules that people have published, for any SearchInstance whose placement they fit, so
that no order found is ever worse than the best of them. The library's files say the same in the
language, with their sources; here they have to be made in an instant for a thousand ranks. A file
per family of placements."""

from collections.abc import Iterator

from stretto.compiler.order.engines.published import both, chain, loop, vee
from stretto.compiler.order.engines.published.placement import placement_of, ranks_of
from stretto.compiler.order.engines.published.writer import OpUnit, RankWriter, cut
from stretto.compiler.order.kernels.instance import SearchInstance
from stretto.compiler.order.kernels.sequences import pack
from stretto.compiler.order.search_state import SearchState

FAMILIES = {
    "chain": chain.schedules,
    "loop": loop.schedules,
    "vee": vee.schedules,
    "both": both.schedules,
}


def run(state: SearchState, share: float) -> None:
    """Submit every published schedule that fits, whatever the share."""
    for name, ranks in published_schedules(state.instance):
        sequence = pack(state.t, ranks)
        if sequence is not None:
            state.submit(sequence, name)


def published_schedules(
    instance: SearchInstance, pen: type[RankWriter] = RankWriter
) -> Iterator[tuple[str, list[list[OpUnit]]]]:
    """The name of every schedule that fits the placement, and the units of every rank, as `pen`
    writes them."""
    placement = placement_of(instance)
    if placement is None:
        return
    for name, write in FAMILIES[placement.family](instance, placement.lines):
        ranks: list[list[OpUnit]] = [[] for _ in range(instance.ranks)]
        for place, rank in enumerate(ranks_of(instance, placement.lines[0])):
            writer = pen(instance)
            write(place, writer)
            ranks[rank] = cut(instance, writer.units)
        yield name, ranks
