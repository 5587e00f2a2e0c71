"""Order → its messages: every result that somebody uses, with the place in the lists of each
receive, wait and free that it asks for. `docs/instructions.md` says where they stand and why."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from stretto.compiler.order import Order
from stretto.compiler.order.earliest_start import Earliest
from stretto.compiler.problem.problem import Problem
from stretto.compiler.problem.spec import NONE
from stretto.compiler.program.result_flow import ResultFlow

EARLY = 1  # how many units before the one that runs when its message is made a receive is posted
LATE = 1  # how many units after the first one that starts when it has arrived a send is waited for


@dataclass(slots=True)
class Message:
    """A result on its way to the lane `target`, a stream of another rank, where the units `first`
    to `last` use it. Its receive stands before the unit `posted` there."""

    result: int
    channel: int
    target: int
    made: int  # ticks
    arrives: int  # ticks
    first: int
    last: int
    posted: int = NONE


@dataclass(slots=True)
class Output:
    """A result in a slot of the rank that makes it, in the unit `made` of its lane. It is sent as
    `messages`, which are waited for before the unit `send_wait` (-1: there are none), and used on
    its own lane, up to the unit `last` (-1: it is not). `elsewhere` has for other lanes of the
    rank that use it the last unit that does; None where there are none."""

    result: int
    made: int
    messages: tuple[Message, ...] = ()
    send_wait: int = NONE
    last: int = NONE
    elsewhere: dict[int, int] | None = None


def outputs(
    order: Order, times: Earliest, data: ResultFlow, slots: int | None = None
) -> list[list[Output]]:
    """For every lane its results that somebody uses, in the order in which it makes them; `slots`
    is the advice to every lane on its receives."""
    uses, found = data.uses, _Sent(order.problem, times, data)
    made: list[list[Output]] = []
    for lane in order.lanes:
        row: list[Output] = []
        for k, unit in enumerate(lane.units):
            for i in unit:
                if uses[i]:
                    output = Output(i, k)
                    if found.used(output):
                        row.append(output)
        made.append(row)
    for messages in found.on_channel:
        _post(messages, times)
    if slots is not None:
        for target, starts in enumerate(times.start):
            arriving = [row for row in found.on_channel if row and row[0].target == target]
            _hold_back(arriving, len(starts), slots)
    for own, row in enumerate(made):
        for output in row:
            if output.messages:
                output.send_wait = max(
                    [_send_wait(message, own, output.made, times) for message in output.messages]
                )
    return made


class _Sent:
    """The messages of the step, channel by channel in the order of sending, while its results are
    walked."""

    def __init__(self, problem: Problem, times: Earliest, data: ResultFlow):
        self.problem, self.times, self.data = problem, times, data
        self.on_channel: list[list[Message]] = [[] for _ in data.channels]

    def used(self, output: Output) -> bool:
        """Note in `output` who uses it: one message to each lane of another rank. False where
        nobody of the order does."""
        problem, times, i = self.problem, self.times, output.result
        rank, source = problem.rank[i], times.lane[i]
        made = times.end[source][output.made]
        used = False
        for edge in self.data.uses[i]:
            j = problem.head[edge]
            unit, target = times.index[j], times.lane[j]
            if unit == NONE:
                continue
            used = True
            if target == source:
                output.last = max(output.last, unit)
            elif problem.rank[j] == rank:
                elsewhere = output.elsewhere = output.elsewhere or {}
                elsewhere[target] = max(elsewhere.get(target, NONE), unit)
            else:
                for message in output.messages:
                    if message.target == target:
                        message.first = min(message.first, unit)
                        message.last = max(message.last, unit)
                        break
                else:
                    why, lag = problem.why[edge], problem.lag[edge]
                    ends = problem.stream[i], problem.stream[j]
                    channel = self.data.number[rank, problem.rank[j], why, *ends]
                    arrives = made + lag if lag else made
                    message = Message(i, channel, target, made, arrives, unit, unit)
                    self.on_channel[channel].append(message)
                    output.messages += (message,)
        return used


def _post(messages: list[Message], times: Earliest) -> None:
    """Place the receives of one channel: each `EARLY` units before the unit that runs when its
    message is made, not after its first use, and in the order of sending."""
    latest: int | None = None
    for message in reversed(messages):
        running = bisect_right(times.start[message.target], message.made) - 1
        latest = min(running - EARLY, message.first, message.first if latest is None else latest)
        message.posted = latest = max(latest, 0)


def _hold_back(arriving: list[list[Message]], units: int, slots: int) -> None:
    """Post the receives of one lane later, channel by channel in `arriving`, until no more than
    `slots` are live at a time, or than must be. At the latest each stands before the first use of
    its message, or of one sent after it on the channel; those that must be posted first may choose
    first, and take the earliest place from which on there is room."""
    choices: list[tuple[int, Message]] = []
    live = [0] * units
    for messages in arriving:
        latest = units
        for message in reversed(messages):
            latest = min(latest, message.first)
            choices.append((latest, message))
            for k in range(latest, message.last + 1):
                live[k] += 1
    room = max([slots, *live])
    choices.reverse()  # each channel's in the order of sending, which sorting keeps
    choices.sort(key=lambda choice: (choice[0], choice[1].made))
    for latest, message in choices:
        posted = latest
        while posted > message.posted and live[posted - 1] < room:
            posted -= 1
            live[posted] += 1
        message.posted = posted  # not before its channel's last one: where that stopped, this does


def _send_wait(message: Message, lane: int, made: int, times: Earliest) -> int:
    """The unit of the sender before which the message is waited for: `LATE` units after the first
    that starts when it has arrived, and after the one that its receive follows."""
    starts, places = times.start[lane], times.place[lane]
    arrives = message.arrives
    if message.posted:  # held back, perhaps: it does not set out before
        posted = times.end[message.target][message.posted - 1]
        arrives = max(arrives, arrives - message.made + posted)
    unit = max(made + 1, bisect_left(starts, arrives)) + LATE
    if message.posted:
        before = times.place[message.target][message.posted - 1]
        unit = max(unit, bisect_right(places, before))
    return min(unit, len(starts))
