"""One parameter in several places. In comes what every rank says of its stages (`tie_card`): which
of their parameters are one in memory, and which the model declares to be one; out come the ties
(`find_ties`), the same on every rank, and the plan with the sums over them (`tied`).

How a model declares a tie, wherever its stages are: a module of the stage says
`tied = {"head.weight": "embedding"}`, the name of a parameter of its own and any name for the tie;
or the executor is told of the places, `ties={"embedding": [(0, "embed.weight"), (-1,
"head.weight")]}`. Names of a module's ties are its model's: another model may use the same.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

from msgspec.structs import replace
from torch import nn

from stretto.compiler.plan.plan import Plan
from stretto.compiler.program.claims import claims
from stretto.compiler.program.lists import RankList
from stretto.compiler.program.program import Reduction, Tie, TiedPlace
from stretto.compiler.program.ties import tie_reductions, tie_sums, tied_list, with_ties
from stretto.compiler.proof.prove import prove_all
from stretto.runtime.aloud import warn
from stretto.runtime.coordination.handshake import shake_hands
from stretto.runtime.coordination.peers import Peers
from stretto.runtime.declared_ties import Declaration, TieTable, declared
from stretto.runtime.errors import PipelineError
from stretto.runtime.parameters import RankStages, label, places
from stretto.runtime.rank_context import RankContext
from stretto.runtime.rank_program import RankPlan, on_streams, rank_program, stream_of_each
from stretto.runtime.shared_memory import MemoryGroup, shared_memory
from stretto.runtime.topology import StageGraph
from stretto.runtime.transport.local import Local
from stretto.runtime.untied import (
    Build,
    Sign,
    doubtful,
    equal_values,
    equal_words,
    fingerprints,
    refuse_signs,
    same_objects,
    signs,
)


class TieCard(NamedTuple):
    """What one rank says, as it goes over the store. `shared`: the memories that stand in several
    places; `declared`: what the model declares. `tensors`: shape, type and whether it is trained,
    of each place in the two. `signs`: what looks like a tie. `given`: what the executor was told,
    the same on every rank, as JSON."""

    shared: list[MemoryGroup]
    declared: list[Declaration]
    tensors: list[tuple[TiedPlace, list[Any]]]
    signs: list[Sign]
    given: str

    @staticmethod
    def read(card: Sequence[Any]) -> "TieCard":
        """What the store brings."""
        shared, declarations, tensors, signs_, given = card
        return TieCard(
            [[[TiedPlace(*p) for p in one] for one in memory] for memory in shared],
            [Declaration(tie, TiedPlace(*p), names) for tie, p, names in declarations],
            [(TiedPlace(*p), tensor) for p, tensor in tensors],
            [Sign(TiedPlace(*p), *rest) for p, *rest in signs_],
            given,
        )


def tie_card(graph: StageGraph, stages: RankStages, given: TieTable | None) -> TieCard:
    """This rank's. Raises `PipelineError` where what is declared is not there, or parameters
    overlap in memory without being one."""
    own = dict(places(stages))
    shared = shared_memory(graph, own)
    declarations = declared(graph, stages, given or {})
    told = {place for memory in shared for one in memory for place in one}
    told |= {one.place for one in declarations}
    tensors = [
        (place, [list(own[place].shape), _type(own[place]), own[place].requires_grad])
        for place in sorted(told)
    ]
    said = json.dumps(given, sort_keys=True, default=str)
    return TieCard(shared, declarations, tensors, signs(stages), said)


def find_ties(
    graph: StageGraph, cards: Sequence[TieCard], same: Iterable[Sequence[TiedPlace]] = ()
) -> tuple[Tie, ...]:
    """The ties, of the cards of all ranks, and of the places that are the `same` where one process
    builds them. Raises `PipelineError` where ranks were told different things, or what is tied
    cannot be one parameter."""
    for rank, card in enumerate(cards):
        if card.given != cards[0].given:
            raise PipelineError(
                f"rank {rank} was given other `ties` than rank 0: {card.given}, not "
                f"{cards[0].given}"
            )
    classes = _Classes(graph)
    for card in cards:
        for memory in card.shared:
            classes.join(place for one in memory for place in one)
    for members in (*_by_tie(graph, cards), *same):
        classes.join(members)
    tensors = {place: tensor for card in cards for place, tensor in card.tensors}
    objects = {
        place: tuple(sorted(one, key=classes.key))
        for card in cards
        for memory in card.shared
        for one in memory
        for place in one
    }
    ties = []
    for members in classes.all():
        _compare(graph, [place for place in members if place in tensors], tensors)
        holders = dict.fromkeys(objects.get(place, (place,)) for place in members)
        first = members[0]._replace(pipeline=graph.original(members[0].pipeline))
        ties.append(Tie(label(graph, first), tuple(holders)))
    return tuple(ties)


def agree_on_ties(
    peers: Peers,
    context: RankContext,
    whole: Plan | None,
    given: TieTable | None,
    build: Callable[[str, int], nn.Module] | None,
) -> tuple[Tie, ...]:
    """Shakes hands with all ranks, and returns the ties of the model. Rank 0 proves the `whole`
    plan with them, unless it is None, and where parameters that nothing ties start equal asks
    `build` whether they are one. Raises `PipelineError`."""
    graph = context.plan.graph
    if isinstance(context.transport, Local):
        named = {label(graph, place): one for place, one in places(context.stages)}
        context.transport.hub.claim(context.transport.rank, named)
    own = tie_card(graph, context.stages, given)
    if given is None:
        peers.store.post(f"ties/values/{peers.rank}", fingerprints(context.stages))

    def judge(read: Sequence[Any]) -> None:
        cards = [TieCard.read(card) for card in read]
        ties = find_ties(graph, cards)
        same: list[list[TiedPlace]] = []
        doubt = ""
        if given is None:
            equal = _equal(peers, graph, ties)
            same = same_objects(equal, _by_stage(graph, build)) if build else []
            ties = find_ties(graph, cards, same)
            refuse_signs(graph, (sign for card in cards for sign in card.signs), ties)
            left = doubtful(equal, same, asked=build is not None)
            doubt = equal_words(graph, left) if left else ""
            if doubt:
                warn(doubt)
        peers.store.post("ties/same", same)
        peers.store.post("ties/doubt", doubt)
        tied(context.plan, ties)
        if whole is not None:
            prove_tied(whole, ties)

    cards = [TieCard.read(card) for card in shake_hands(peers, context.plan.hash, own, judge)]
    (found,) = peers.wait(["ties/same"])
    return find_ties(graph, cards, [[TiedPlace(*place) for place in one] for one in found])


def doubt_of(peers: Peers) -> str:
    """What was warned of when the executor was made: what starts equal, and nothing ties. Empty
    where that is nothing."""
    return str(peers.wait(["ties/doubt"])[0])


def prove_tied(whole: Plan, ties: tuple[Tie, ...]) -> None:
    """Proves the plan with these ties. Where gradients are averaged over other pipelines, sums over
    ties delay that, and what the plan claims of its times is not so. Raises `Rejected`."""
    programs = {name: with_ties(one, ties) for name, one in whole.programs.items()}
    delayed = ties and any(one.spec.reduce_gradients for one in programs.values())
    prove_all(programs, {n: claims(p) for n, p in programs.items()} if delayed else whole.claims)  # pyright: ignore[reportArgumentType]


def _equal(peers: Peers, graph: StageGraph, ties: tuple[Tie, ...]) -> list[list[TiedPlace]]:
    keys = [f"ties/values/{rank}" for rank in range(peers.world)]
    told = [[(TiedPlace(*p), digest) for p, digest in card] for card in peers.wait(keys)]
    return equal_values(graph, told, ties)


def _by_stage(graph: StageGraph, build: Callable[[str, int], nn.Module]) -> Build:
    return lambda stage: build(graph.spec.pipelines[stage.pipeline].name, stage.stage)


def tied(plan: RankPlan, ties: tuple[Tie, ...]) -> RankPlan:
    """The rank's part of the plan with the sums over these ties: of its own list what
    `compiler.program.ties.with_ties` makes of all. Its hash is that of both. Raises `PipelineError`
    where the plan was made with other ties."""
    if plan.spec.ties == ties:
        return plan
    if plan.spec.ties:
        raise PipelineError("this plan was made for a model with other ties: compile it anew")
    spec, programs = replace(plan.spec, ties=ties), dict(plan.programs)
    sums: tuple[Reduction, ...] = ()
    if "train" in programs:
        sums = tie_reductions(spec)
        own = tie_sums(sums, len(plan.reductions), plan.rank)
        train = programs["train"]
        row = RankList(list(train.instructions), stream_of_each(train))
        row = tied_list(spec, plan.reductions + sums, plan.rank, row, own)
        program = rank_program("train", tuple(row.instructions), plan.channels)
        programs["train"] = on_streams(program, spec, row.streams)
    return plan._replace(
        spec=spec,
        graph=StageGraph(spec),
        reductions=plan.reductions + sums,
        programs=programs,
        hash=sha256(f"{plan.hash} {ties}".encode()).hexdigest(),
    )


def _by_tie(graph: StageGraph, cards: Iterable[TieCard]) -> list[list[TiedPlace]]:
    """What is declared, by tie. Raises `PipelineError` for a tie that nothing else is in."""
    found: dict[str, list[Declaration]] = {}
    for card in cards:
        for one in card.declared:
            found.setdefault(one.tie, []).append(one)
    for tie, members in found.items():
        stands = {(graph.original(m.place.pipeline), *m.place[1:]) for m in members}
        if len(stands) == 1 and not any(m.names > 1 for m in members):
            raise PipelineError(
                f"`{label(graph, members[0].place)}` is declared as the tie "
                f"`{tie.split('/', 1)[1]}`, and nothing else is: a module's names for ties are "
                "those of its model; what several models share is told to the executor, `ties=`"
            )
    return [[one.place for one in members] for _, members in sorted(found.items())]


class _Classes:
    """Places that are one parameter. Copies of a stage have the same, so classes are over the
    stages that copy no other: pipeline, stage and name."""

    def __init__(self, graph: StageGraph):
        self.graph = graph
        self.parent: dict[TiedPlace, TiedPlace] = {}

    def key(self, place: TiedPlace) -> tuple[int, int, int, TiedPlace]:
        """The order of places: by model, stage, rank, pipeline and name."""
        original = self.graph.original(place.pipeline)
        return original, place.stage, self.graph.topology.rank_of(place[:2]), place

    def join(self, members: Iterable[TiedPlace]) -> None:
        roots = [self._root(self._original(place)) for place in members]
        for root in roots:
            self.parent[root] = roots[0]

    def all(self) -> list[list[TiedPlace]]:
        """The places of every class, copies included, in order; those that stand in one place
        alone are none."""
        found: dict[TiedPlace, list[TiedPlace]] = {}
        for place in self.parent:
            copies = self.graph.topology.copies(place.pipeline)
            found.setdefault(self._root(place), []).extend(
                place._replace(pipeline=p) for p in copies
            )
        classes = [sorted(members, key=self.key) for members in found.values()]
        return sorted((c for c in classes if len(c) > 1), key=lambda c: self.key(c[0]))

    def _original(self, place: TiedPlace) -> TiedPlace:
        return place._replace(pipeline=self.graph.original(place.pipeline))

    def _root(self, place: TiedPlace) -> TiedPlace:
        self.parent.setdefault(place, place)
        while self.parent[place] != place:
            place = self.parent[place]
        return place


def _compare(
    graph: StageGraph, members: Sequence[TiedPlace], tensors: dict[TiedPlace, list[Any]]
) -> None:
    """What is one parameter is alike everywhere."""
    for place in members[1:]:
        if tensors[place] != tensors[members[0]]:
            a, b = (f"`{label(graph, p)}` is {_words(tensors[p])}" for p in (members[0], place))
            raise PipelineError(f"what is tied must be one parameter: {a}, and {b}")


def _type(parameter: nn.Parameter) -> str:
    """Of its numbers; of one that is cut over ranks, also how."""
    placements = getattr(parameter, "placements", None)
    return str(parameter.dtype) + (f" cut as {placements}" if placements else "")


def _words(tensor: list[Any]) -> str:
    shape, dtype, trained = tensor
    return f"{tuple(shape)} {dtype}{'' if trained else ' and frozen'}"
