"""What a rank is at, as the watchdog asks: a step of a plan, an instruction, or neither."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from stretto.compiler.program.program import Compute, ProgramName
from stretto.runtime.coordination.watchdog import Position
from stretto.runtime.describe import awaited_ranks, describe_streams, ranks
from stretto.runtime.interpreter import Interpreter
from stretto.runtime.rank_program import RankPlan
from stretto.runtime.streams.marks import DeviceMarks, DevicePlace
from stretto.runtime.whereabouts import Whereabouts

WORDS: dict[ProgramName, str] = {"train": "step", "eval": "evaluation"}
"""What a user calls a run of the program."""


class Activity:
    """`doing` follows `rank 2 ` in a sentence, `busy` is false between steps, `steps` counts those
    begun, evaluations too, `run` is the one whose instructions are running; between steps `awaited`
    are the ranks whose numbers this one waits for, and `moves` counts the times it did; `patient`:
    they may take as long as they like, if only their processes live. `when` is what messages call
    the step: what a training loop has `called` it, by default `step 3` or `evaluation 1`, as this
    executor has `taken` them. `marks`: on a device, which is behind the process, where it stands; a
    step is over when it has come to the end."""

    def __init__(self, page: Whereabouts | None = None, marks: DeviceMarks | None = None) -> None:
        self.page, self.marks = page or Whereabouts(), marks
        self.plan: RankPlan | None = None  # of the list that was issued last
        self._run: Interpreter | None = None
        self.doing, self.busy = "makes its executor", True
        self.steps = self.moves = 0
        self.called, self.when = "", ""
        self.taken: dict[ProgramName, int] = {"train": 0, "eval": 0}
        self.awaited: tuple[int, ...] = ()
        self.patient = False

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
            self.plan = self.plan if run is None else run.context.plan
            self.page.runs(run.program.name if run else "", run.many if run else 1)

    def finish(self) -> None:
        """The executor is made, or a step is over."""
        self.run, self.doing, self.busy = None, "is between steps", False
        self.awaited = ()

    @contextmanager
    def step(self, name: ProgramName) -> Iterator[None]:
        """Around a step of the program, from its preparation to its end."""
        self.steps, self.busy = self.steps + 1, True
        self.taken[name] += 1
        self.when = self.called or f"{WORDS[name]} {self.taken[name]}"
        self.doing = f"begins {self.when}"
        try:
            yield
        finally:
            self.finish()

    def awaits(self, others: Sequence[int]) -> None:
        """The step that this rank is in cannot begin before these ranks have come to it."""
        self.awaited = tuple(others)
        self.doing = f"waits for {ranks(others)} to begin {self.when}"

    @contextmanager
    def waiting(self, doing: str, *ranks: int, patient: bool = False) -> Iterator[None]:
        """Around a wait for other ranks that is no instruction's; `doing` follows `rank 2 `."""
        before = self.doing, self.busy, self.awaited, self.patient
        self.moves += 1
        self.doing, self.busy, self.awaited, self.patient = doing, True, ranks, patient
        try:
            yield
        finally:
            self.doing, self.busy, self.awaited, self.patient = before

    def position(self) -> Position:
        """Where the rank is, and its device."""
        run = self.run
        if run is None:
            key = (self.steps, -1 - self.moves)
            here = Position(key, self.doing, self.awaited, self.busy, patient=self.patient)
        else:
            here = self.position_of(run.views)
        device = None if self.marks is None else self.marks.standing()
        return here if device is None else self._with_device(here, device)

    def _with_device(self, here: Position, device: DevicePlace) -> Position:
        """A rank whose device has still to do what it was given. It waits for whom the device waits
        for; a process that waits for the device may look as if it computed."""
        plan = self.plan
        assert plan is not None
        awaited = dict.fromkeys(here.waiting_for)
        for _, at in device.at:
            awaited |= dict.fromkeys(awaited_ranks(plan, device.name, at))
        where = describe_streams(plan, device.name, device.at)
        return Position(
            (*here.key, device.over), f"{here.where}; its device {where}", tuple(awaited), True
        )

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
