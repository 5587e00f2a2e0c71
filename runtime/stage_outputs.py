"""What the ranks agree on before they exchange anything: the tensors on every edge. Each rank
finds out what its own stages give, from what they are given, and posts it; so the knowledge goes
down the pipelines once, as micro-batches will."""

from typing import Any

import torch

from stretto.compiler.program.program import Spec
from stretto.runtime.rank_program import Part
from stretto.runtime.stage.stage import Stage
from stretto.runtime.store import Board
from stretto.runtime.tensor_spec import Edge, carrying, from_json, output_of, to_json
from stretto.runtime.topology import Place, downwards, gives, learners, place_in_words, sources


class Edges:
    """`outputs` has what a stage gives, for every stage that this rank has to do with."""

    def __init__(self, spec: Spec, outputs: dict[Place, Edge]):
        self.spec, self.outputs = spec, outputs
        self._gradients: dict[Place, Edge] = {}

    def of_result(self, kind: str, place: Place) -> Edge:
        """The tensors of an operation's result: of a forward its output, of a backward the
        gradients of all that the stage was given."""
        if kind == "F":
            return self.outputs[place]
        if place not in self._gradients:
            self._gradients[place] = tuple(
                shape
                for source in sources(self.spec, place)
                for shape in carrying(self.outputs[source])
            )
        return self._gradients[place]

    def share(self, user: Place, source: Place) -> slice:
        """Which of the gradients that `user` returns are those of what `source` gave."""
        first = 0
        for other in sources(self.spec, user):
            many = len(carrying(self.outputs[other]))
            if other == source:
                return slice(first, first + many)
            first += many
        raise KeyError(source)


def agree(
    board: Board,
    seconds: float,
    part: Part,
    stages: dict[Place, Stage],
    first: dict[int, Any],
    device: torch.device,
    round_: int,
) -> Edges:
    """Finds all edges that this rank has to do with. `first` has, by pipeline, the first
    micro-batch where this rank has a first stage; `round_` tells this time from others. Raises
    `Stopped` where a stage cannot run, `board.Missing` where another rank does not come."""
    spec, found = part.spec, dict[Place, Edge]()

    def key(place: Place) -> str:
        return f"edge/{round_}/{place.pipeline}/{place.stage}"

    def fetch(places: list[Place]) -> None:
        absent = [place for place in dict.fromkeys(places) if place not in found]
        values = board.wait([key(place) for place in absent], seconds)
        found.update(zip(absent, map(from_json, values), strict=True))

    for place in downwards(spec):
        if place not in stages or not gives(spec, place):
            continue
        given = sources(spec, place)
        fetch(given)
        stage, x = stages[place], first.get(place.pipeline) if place.stage == 0 else None
        edge = tuple(shape for source in given for shape in found[source])
        words = f"`{place_in_words(spec, place)}` on rank {part.rank}"
        output = output_of(stage.module, x, edge, device, words)
        if not stage.learns:
            output = tuple(shape._replace(gradient=False) for shape in output)
        found[place] = output
        board.post(key(place), to_json(output))

    users = [user for place in part.places for user in learners(spec, place)]
    fetch([source for place in [*part.places, *users] for source in sources(spec, place)])
    return Edges(spec, found)
