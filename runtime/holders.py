"""Who holds what stands in several places: the copies of a stage, and the holders of a tie. In
come a plan and a rank's modules; out come the parameters whose gradients a reduction adds, and
between which ranks they travel."""

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from stretto.compiler.program.program import Copy, Reduction, Tie, TiedPlace
from stretto.runtime.errors import PipelineError
from stretto.runtime.parameters import label, memory_of
from stretto.runtime.rank_context import RankContext
from stretto.runtime.stage.gradients import Holder, gradient_holders, plain
from stretto.runtime.topology import StageGraph, StageId
from stretto.runtime.transport import P2PLane


class Summand(NamedTuple):
    """One of those whose gradients are summed: its rank, and on that rank the gradients, else none.
    Of a copy all that are not tied, of a holder of a tie one."""

    rank: int
    gradients: list[Holder]


class Holders:
    """What this rank has of them."""

    def __init__(self, context: RankContext):
        self.context, self.rank = context, context.plan.rank
        self.ties = context.plan.spec.ties
        self.all_tied = {place for tie in self.ties for place in tie.places}

    def of(self, reduction: Reduction) -> list[Summand]:
        """Whose gradients the reduction adds, in its order."""
        if not reduction.tie:
            return [Summand(copy.rank, self._untied(copy)) for copy in reduction.copies]
        (tie,) = [tie for tie in self.ties if tie.name == reduction.tie]
        found = []
        for rank, place in self._firsts(tie):
            own = [self._by_name(place)[place.name]] if rank == self.rank else []
            found.append(Summand(rank, own))
        return found

    def weights(self, tie: Tie) -> list[tuple[int, list[Tensor]]]:
        """The holders of a tie, in its order: the rank of each, and on that rank the weight."""
        return [
            (rank, [plain(self._at(place))] if rank == self.rank else [])
            for rank, place in self._firsts(tie)
        ]

    def _firsts(self, tie: Tie) -> list[tuple[int, TiedPlace]]:
        """Of every holder its rank and its first place."""
        rank_of = self.context.plan.graph.topology.rank_of
        return [(rank_of(places[0][:2]), places[0]) for places in tie.holders]

    def _at(self, place: TiedPlace) -> nn.Parameter:
        return self.module(place).get_parameter(place.name)

    def _by_name(self, stage: Copy | TiedPlace) -> dict[str, Holder]:
        module = self.module(stage)
        names = [name for name, _ in module.named_parameters()]
        return dict(zip(names, gradient_holders(module), strict=True))

    def _untied(self, copy: Copy) -> list[Holder]:
        """The gradients of a copy that no tie names."""
        if not self.all_tied:
            return gradient_holders(self.module(copy)) if copy.rank == self.rank else []
        own = self._by_name(copy) if copy.rank == self.rank else {}
        return [
            holder
            for name, holder in own.items()
            if TiedPlace(*copy[:2], name) not in self.all_tied
        ]

    def look_at(self, tie: Tie) -> None:
        """Raises `PipelineError` where the places of a holder are one parameter no more."""
        graph = self.context.plan.graph
        for holder in tie.holders:
            if graph.topology.rank_of(holder[0][:2]) == self.rank:
                for place in holder[1:]:
                    if self._at(place) is not self._at(holder[0]):
                        raise PipelineError(
                            f"`{label(graph, holder[0])}` and `{label(graph, place)}` were one "
                            "Parameter when the executor was made, and are two now: make the "
                            "executor after whatever replaces parameters"
                        )

    def module(self, stage: Copy | TiedPlace) -> nn.Module:
        """The module of a stage of this rank."""
        return self.context.stages[StageId(*stage[:2])].module

    def state(self, copy: Copy) -> list[Tensor]:
        """Parameters and buffers of a copy; of another rank's nothing."""
        if copy.rank != self.rank:
            return []
        module = self.module(copy)
        return [plain(tensor) for tensor in [*module.parameters(), *module.buffers()]]


def copies(graph: StageGraph) -> Iterator[list[Copy]]:
    """The copies of every stage that has several: by rank, then pipeline."""
    for p in graph.originals():
        for s in range(len(graph.spec.pipelines[p].stages)):
            family = [(q, s) for q in graph.topology.copies(p)]
            found = [Copy(*stage, graph.topology.rank_of(stage)) for stage in family]
            if len(found) > 1:
                yield sorted(found, key=lambda copy: (copy.rank, copy.pipeline))


def between(graph: StageGraph) -> list[P2PLane]:
    """Each way between every two ranks that hold the same parameters."""
    groups = [{copy.rank for copy in one} for one in copies(graph)]
    groups += [{graph.topology.rank_of(p[:2]) for p in tie.places} for tie in graph.spec.ties]
    pairs = {P2PLane(a, b) for group in groups for a in group for b in group if a != b}
    return sorted(pairs)


def twins(own: Sequence[Summand]) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
    """Parameters over the memory of an earlier one, which is the one that optimizers know."""
    held = [one for summand in own for one in summand.gradients if isinstance(one, nn.Parameter)]
    plain = [parameter.data_ptr() for parameter in held if type(parameter) is nn.Parameter]
    if len(plain) == len(held) == len(set(plain)):  # nearly always, and found more quickly
        return
    seen: dict[Hashable, nn.Parameter] = {}
    for parameter in held:
        first = seen.setdefault(memory_of(parameter), parameter)
        if first is not parameter:
            yield first, parameter
