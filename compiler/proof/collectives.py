"""What is done once for a stage beside the computations, followed through one rank's list: weights
are gathered before the stage's first forward (`unshard weights`), gradients averaged with those of
other pipelines after its last weight gradient, of all its copies (`reduce gradients`). Each exactly
once where the Spec asks for it, and nowhere else. Which other pipelines there are, no plan knows:
all of them run the same lists, so that what each begins in this order, all do.
"""

from collections.abc import Iterator

from stretto.compiler.diagnostics.diagnostic import Diagnostic
from stretto.compiler.problem.spec import Spec
from stretto.compiler.program.program import Program
from stretto.compiler.proof.findings import RankFindings
from stretto.compiler.proof.ledger import GATHER, NEED, REDUCE, Events
from stretto.compiler.proof.obligations import Obligations

StagePlace = tuple[int, int]
"""A pipeline and a stage of it."""


def collectives(spec: Spec, obligations: Obligations) -> Iterator[Diagnostic]:
    """What is wrong with the Spec's lists: each names every stage that it is about, once."""
    every = [(p, s) for p, line in enumerate(spec.pipelines) for s in range(len(line.stages))]
    trained = [place for place in every if place in obligations.gradients]
    for what, listed, wanted in (
        ("reduce gradients", spec.reduce_gradients, trained),
        ("unshard weights", spec.unshard_weights, every),
    ):
        if listed and [(p, s) for p, s, _ in listed] != wanted:
            yield Diagnostic(
                "wrong-collective", f"`{what}` does not name every stage that it is about, once"
            )
        for p, s, ticks in listed:
            if ticks < 0:
                name = spec.pipelines[p].name
                yield Diagnostic(
                    "wrong-collective", f"`{what}` of stage {s} of {name} takes {ticks} ticks"
                )


class Collectives:
    """One rank's, as far as the list was followed. `reduced`, `gathered`: the stages that are done,
    the latter with the number of their gathering; `used`: those whose forwards have begun."""

    def __init__(
        self,
        program: Program,
        obligations: Obligations,
        rank: int,
        events: Events,
        findings: RankFindings,
    ):
        self.program, self.obligations, self.rank = program, obligations, rank
        self.events, self.findings = events, findings
        self.reduces, self.gathers = obligations.reduces, obligations.gathers
        self.reduced: set[StagePlace] = set()
        self.gathered: dict[StagePlace, int] = {}
        self.used: set[StagePlace] = set()

    def reduce(self, i: int, place: StagePlace, left: int, summed: set[int]) -> None:
        """Gradients of a stage are averaged, while `left` of its weight gradients are to come, and
        the sums numbered `summed` were made."""
        if not self._asked(i, place, self.reduces, "reduce gradients"):
            return
        fault = self.findings.fault
        if place in self.reduced:
            fault("wrong-collective", i, "its gradients were averaged before")
        if left:
            fault("wrong-collective", i, f"{left} of its weight gradients come later")
        for number, reduction in enumerate(self.program.reductions):
            if (*place, self.rank) in reduction.copies and number not in summed:
                what = self.findings.words.reduction(reduction)
                fault("wrong-collective", i, f"the {what} comes later")
        self.reduced.add(place)
        self.events.add(i, REDUCE, self.reduces[place])

    def gather(self, i: int, place: StagePlace) -> None:
        """Weights of a stage are gathered."""
        if not self._asked(i, place, self.gathers, "unshard weights"):
            return
        if place in self.gathered:
            self.findings.fault("wrong-collective", i, "its weights were gathered before")
            return
        if place in self.used:
            self.findings.fault("wrong-collective", i, "a forward of the stage comes before")
        self.gathered[place] = len(self.gathered)
        self.events.add(i, GATHER, self.gathers[place])

    def forward(self, i: int, place: StagePlace) -> None:
        """A forward of the stage begins: the first waits for the weights."""
        if place not in self.used:
            self.used.add(place)
            if place in self.gathered:
                self.events.add(i, NEED, self.gathered[place])

    def close(self) -> None:
        """At the end of the list all must be done."""
        pipelines = self.obligations.spec.pipelines
        for what, wanted, done in (
            ("averages the gradients", self.reduces, self.reduced),
            ("gathers the weights", self.gathers, self.gathered),
        ):
            for p, s in self.obligations.on.get(self.rank, ()) if wanted else ():
                if (p, s) in wanted and (p, s) not in done:
                    where = f"stage {s} of {pipelines[p].name}"
                    self.findings.missing(
                        "wrong-collective", f"rank {self.rank} never {what} of {where}"
                    )

    def _asked(
        self, i: int, place: StagePlace, asked: dict[StagePlace, int], statement: str
    ) -> bool:
        """Whether the schedule asks for it, of this rank."""
        if place not in asked:
            text = f"the schedule does not say `{statement}` of this stage"
            if self.obligations.train or statement == "unshard weights":
                self.findings.fault("wrong-collective", i, text)
            else:
                self.findings.fault("wrong-collective", i, "an evaluation computes no gradients")
            return False
        p, s = place
        rank = self.obligations.spec.pipelines[p].stages[s].rank
        if rank != self.rank:
            self.findings.fault("wrong-collective", i, f"its stage is on rank {rank}")
            return False
        return True
