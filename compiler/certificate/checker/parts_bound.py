"""A lower bound of an instance of parts from its evidence: `by`, a theorem of those below, and the
`rank`, `stream`, `head` and `tail` that it is about, 0 where it is about none. Heads and tails of
all operations are worked out here (`parts_graph`). The theorems are proven at the top of
the modules in `compiler/bounds/parts/`.

`chain`: the longest of head + ticks + tail; of a span, of the operations on `rank`, without head,
and the tail ends with the rank's last.
`busy` (B10): all operations on `stream` of `rank` with at least this head and this tail run one
after another; of a span the head is 0, and the span that of `rank`.
`merged` (B12): the same of the m-th of each kind and part, of whichever stage of `rank`.
`window` (B11): what `stream` of `rank` can do before the rank's first backward and after its last
forward.
The last two are of makespans alone.
"""

from typing import Any

from stretto.compiler.certificate.checker.instance import demand
from stretto.compiler.certificate.checker.parts_chain import link_chains
from stretto.compiler.certificate.checker.parts_graph import PartsOrderGraph, PartTicks
from stretto.compiler.certificate.checker.parts_instance import ChainInstance, PartOp, type_of
from stretto.compiler.certificate.checker.parts_window import parts_window


class PartsBoundCheck:
    """Evidence for a bound that holds for every order of the instance."""

    def __init__(self, instance: ChainInstance):
        self.instance = instance
        self.graph = PartsOrderGraph(instance)
        self.chains = {} if instance.minimize == "span" else link_chains(self.graph)
        self._known: dict[int | None, tuple[PartTicks, PartTicks]] = {}

    def times(self, rank: int) -> tuple[PartTicks, PartTicks]:
        """Heads and tails that a theorem about this rank may use."""
        key = rank if self.instance.minimize == "span" else None
        if key not in self._known:
            tails = self.graph.tails(key)
            heads = self.graph.heads() if key is None else dict.fromkeys(tails, 0)
            self._known = {key: (heads, tails)}
        return self._known[key]

    def on(self, rank: int, stream: int | None = None) -> list[PartOp]:
        """The operations of a rank, or of one stream of it."""
        lane = self.instance.lane
        own = {one for one in self.instance.count if lane(one)[0] == rank}
        if stream is not None:
            own = {one for one in own if lane(one)[1] == stream}
        return [o for o in self.graph.ticks if type_of(o) in own]

    def value(self, evidence: dict[str, Any]) -> int:
        """The bound in ticks. Raises `Refuted` where the evidence proves none."""
        ticks = self.graph.ticks
        rank, stream, head, tail = (evidence[key] for key in ("rank", "stream", "head", "tail"))
        if not ticks:
            demand(evidence["by"] == "chain", "the evidence is of a stream that does nothing")
        span = self.instance.minimize == "span"
        whole = f"the evidence of a span is by `{evidence['by']}`, which is of makespans"
        demand(not span or evidence["by"] in ("chain", "busy"), whole)
        heads, tails = self.times(rank)
        if evidence["by"] == "chain":
            unused = [stream, head, tail] if span else [rank, stream, head, tail]
            demand(not any(unused), "the evidence is by `chain`, and names more than that needs")
            own = self.on(rank) if span else list(ticks)
            return max((heads[o] + ticks[o] + tails[o] for o in own), default=0)
        if evidence["by"] == "window":
            demand(not head and not tail, "the evidence is by `window`, and names a head or a tail")
            return parts_window(self.graph, (rank, stream), heads, tails)
        if evidence["by"] == "busy":
            jobs = [(heads[o], ticks[o], tails[o]) for o in self.on(rank, stream)]
        else:
            jobs = self.merged(rank, stream, heads, tails)
        chosen = [one for early, one, late in jobs if early >= head and late >= tail]
        least = f"a head of {head} and a tail of {tail}"
        nothing = f"the evidence is of stream {stream} of rank {rank} with {least}, which no"
        demand(bool(chosen), f"{nothing} operation there has")
        return int(head + sum(chosen) + tail)

    def merged(
        self, rank: int, stream: int, heads: PartTicks, tails: PartTicks
    ) -> list[tuple[int, int, int]]:
        """Head, ticks and tail of the links of a rank as one stage, of those on a stream. Raises
        `Refuted` where it cannot be counted so."""
        cut = f"the evidence is by `merged` of rank {rank}, which has no two stages, or not cut"
        demand(rank in self.chains, f"{cut} alike")
        chain = self.chains[rank]
        early, late = chain.heads(heads), chain.tails(tails)
        return [
            (early[k][m], chain.ticks[k], late[k][m])
            for k, on in enumerate(chain.stream)
            if on == stream
            for m in range(chain.many)
        ]
