"""B11, proven at the top of `compiler/bounds/parts/windows.py`: before the first backward of its
rank (t1) a stream runs forwards only, as many as memory takes; in the last t2, after the last
forward, it runs only what memory then held; unless all of its work fits into these, t1 + t2 + the
rest of its work. Memory of single parts is left out: with it there could only be less."""

from stretto.compiler.certificate.checker.instance import demand
from stretto.compiler.certificate.checker.parts_graph import PartsOrderGraph, PartTicks
from stretto.compiler.certificate.checker.parts_instance import PartOp
from stretto.compiler.certificate.checker.window import Items, most


def parts_window(
    graph: PartsOrderGraph, lane: tuple[int, int], heads: PartTicks, tails: PartTicks
) -> int:
    """The bound of a stream, from heads and tails of all operations. Raises `Refuted` where it says
    nothing."""
    of, ticks = graph.instance, graph.ticks
    here = {one: of.lane(one) for one in of.count}
    passing = [line["forward_only"] for line in of.pipelines]
    on_rank = [o for o in ticks if here[(o[0], o[1], o[2], o[4])][0] == lane[0]]
    own = [o for o in on_rank if here[(o[0], o[1], o[2], o[4])] == lane]
    trained = [o for o in on_rank if not passing[o[1]]]
    what = f"the evidence is by `window` of stream {lane[1]} of rank {lane[0]}"
    demand(bool(own and trained), f"{what}, which does nothing, or whose rank trains nothing")
    t1 = min(heads[o] for o in trained if o[0] in "IB")
    t2 = min(tails[o] for o in trained if o[0] == "F")
    work = sum(ticks[o] for o in own)
    free = sum(ticks[o] for o in own if passing[o[1]])
    starts, ends = _items(graph, lane[0], own)
    of.spend(sum(many for _, _, many in starts + ends))
    limit = of.limits[lane[0]]
    before = min(t1 - min(heads[o] for o in own), free + most(starts, limit))
    after = min(t2 - min(tails[o] for o in own), free + most(ends, limit))
    demand(before >= 0 <= after, f"{what}, whose windows are {before} and {after} ticks long")
    found = [t1 + work - before, t2 + work - after]
    if work > before + after:
        found.append(t1 + t2 + work - before - after)
    return max(found)


def _items(graph: PartsOrderGraph, rank: int, own: list[PartOp]) -> tuple[Items, Items]:
    """What memory may hold before the first backward: forwards with their ticks on this stream; and
    what after the last forward: activations with all that is left to do of them there, and what is
    kept, with its W."""
    of = graph.instance
    each: dict[tuple[int, int, int, bool], dict[str, int]] = {}
    for o in own:
        kinds = each.setdefault((*o[1:4], False), {})
        kinds[o[0]] = kinds.get(o[0], 0) + graph.ticks[o]
    longest: dict[tuple[int, int, str], int] = {}
    for (p, s, _, _), kinds in each.items():
        for kind, ticks in kinds.items():
            longest[p, s, kind] = max(ticks, longest.get((p, s, kind), 0))
    starts, ends = [], []
    for p, line in enumerate(of.pipelines):
        many = line["microbatches"]
        for s, stage in enumerate(line["stages"]):
            if stage["rank"] != rank or line["forward_only"]:
                continue
            f, b, i, w = (longest.get((p, s, kind), 0) for kind in "FBIW")
            starts.append((stage["activation"], f, many))
            ends.append((stage["activation"], b + i + w, many))
            ends.append((stage["kept"], w, many))
    return starts, ends
