"""How many rounds the loops inside of a loop make, as far as that is known before its first round:
so a nest of loops is refused by what it would make, as a single loop is, and not once it has made
as many as there may be.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from stretto.compiler.evaluation.expressions.names import names_in
from stretto.compiler.evaluation.expressions.ranges import ForeseenRounds
from stretto.compiler.evaluation.expressions.values import Env
from stretto.compiler.language import syntax as s

Count = Callable[[Env], ForeseenRounds]
"""The rounds of one loop, by what its environment has."""


class NestedLoop(NamedTuple):
    """A loop of a block, and those inside of it."""

    often: Count
    inside: "Nest"


class Nest(NamedTuple):
    """The loops of a block that are run whenever it is, how often does not depend on it."""

    loops: tuple[NestedLoop, ...]

    def rounds(self, env: Env) -> int:
        """How many rounds all of them make."""
        made = 0
        for often, inside in self.loops:
            all_rounds, last = often(env)
            made += all_rounds
            if last:
                made += last * inside.rounds(env)
        return made


def nest(body: s.Block, counts: Mapping[int, Count], bound: Iterable[str]) -> Nest:
    """The nest of a loop's body; `counts` has its loops by their identity, `bound` are the names
    that the loop gives values to."""
    inner = {step.name.text for step in body.steps if isinstance(step, s.Let)}.union(bound)
    loops = []
    for step in body.steps:
        if not isinstance(step, (s.Repeat, s.Loop)):
            continue
        own, used = _names(step)
        if inner.isdisjoint(used):
            loops.append(NestedLoop(counts[id(step)], nest(step.body, counts, inner | own)))
    return Nest(tuple(loops))


def _names(step: s.Repeat | s.Loop) -> tuple[set[str], set[str]]:
    """The names that a loop gives values to, and those that say how often it runs."""
    if isinstance(step, s.Repeat):
        return {step.name.text} if step.name else set(), set(names_in(step.count))
    own = {one.name.text for one in step.ranges}
    ends = [end for one in step.ranges for end in (one.first, one.last)]
    return own, {name for end in ends for name in names_in(end)} - own
