"""What a rank is at, as the watchdog asks: a step of a plan, an instruction, or neither."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from stretto.compiler.program.program import Compute
from stretto.runtime.coordination.watchdog import Position
from stretto.runtime.describe import awaited_ranks, describe_streams, ranks
from stretto.runtime.interpreter import Interpreter
from stretto.runtime.whereabouts import Whereabouts


class Activity:
    """`doing` follows `rank 2 ` in a sentence, `busy` is false between steps, `steps` counts those
    begun, `run` is the one whose instructions are running; between steps `awaited` are the ranks
    whose numbers this one waits for, and `moves` counts the times it did."""

    def __init__(self, page: Whereabouts | None = None) -> None:
        self.page = page or Whereabouts()
        self._run: Interpreter | None = None
        self.doing, self.busy = "makes its executor", True
        self.steps = self.moves = 0
        self.awaited: tuple[int, ...] = ()

    @property
    def doing(self) -> str:
        """As on the page that other processes read."""
        return self._doing

    @doing.setter
    def doing(self, words: str) -> None:
        self._doing = words
        self.page.say(words)

    @property
    def run(self) -> Interpreter | None:
        """None where no list is run."""
        return self._run

    @run.setter
    def run(self, run: Interpreter | None) -> None:
        if run is not self._run:
            self._run = run
            self.page.runs(run.program.name if run else "", run.many if run else 1)

    def finish(self) -> None:
        """The executor is made, or a step is over."""
        self.run, self.doing, self.busy = None, "is between steps", False
        self.awaited = ()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around a step, from its preparation to its end."""
        self.steps, self.busy = self.steps + 1, True
        self.doing = f"begins step {self.steps}"
        try:
            yield
        finally:
            self.finish()

    def awaits(self, others: Sequence[int]) -> None:
        """The step that this rank is in cannot begin before these ranks have come to it."""
        self.awaited = tuple(others)
        self.doing = f"waits for {ranks(others)} to begin step {self.steps}"

    @contextmanager
    def waiting(self, doing: str, *ranks: int) -> Iterator[None]:
        """Around a wait for other ranks that is no instruction's; `doing` follows `rank 2 `."""
        before = self.doing, self.busy, self.awaited
        self.moves += 1
        self.doing, self.busy, self.awaited = doing, True, ranks
        try:
            yield
        finally:
            self.doing, self.busy, self.awaited = before

    def position(self) -> Position:
        """Where the rank is."""
        run = self.run
        if run is None:
            return Position((self.steps, -1 - self.moves), self.doing, self.awaited, self.busy)
        return self.position_of(run.views)

    def position_of(self, views: Sequence[Interpreter]) -> Position:
        """Where these streams of the running list are."""
        plan, name, at = views[0].context.plan, views[0].program.name, [view.at for view in views]
        awaited = {rank: None for view in views for rank in self.awaited_by(view)}
        where = describe_streams(plan, name, [(view.stream, view.at) for view in views])
        return Position((self.steps, sum(at)), where, tuple(awaited), True, len(at) > 1)

    def computing(self) -> Position:
        """Where the rank is as one of those that share its collectives: a stream that computes may
        wait for them, the number -1."""
        run = self.run
        if run is None:
            return self.position()._replace(waiting_for=())
        instructions = run.program.instructions
        at_it = [
            view
            for view in run.views
            if view.at < len(instructions) and isinstance(instructions[view.at], Compute)
        ]
        here = self.position_of(at_it or run.views)
        return here._replace(waiting_for=(-1,) if at_it else (), several=True)

    def awaited_by(self, view: Interpreter) -> list[int]:
        """The ranks that this stream waits for."""
        return awaited_ranks(view.context.plan, view.program.name, view.at)


def watched(
    activity: Activity, ask: Callable[[Activity], Position] = Activity.position
) -> Callable[[], Position | None]:
    """Asks for the position, without keeping the activity alive: None once it is gone."""
    reference = weakref.ref(activity)

    def position() -> Position | None:
        alive = reference()
        return None if alive is None else ask(alive)

    return position
