"""Order → its messages: every result that somebody uses, with the place in the lists of each
receive, wait and free that it asks for. `docs/instructions.md` says where they stand and why."""

from bisect import bisect_left, bisect_right

from msgspec import Struct

from stretto.compiler.order import Order
from stretto.compiler.order.earliest_start import Earliest
from stretto.compiler.problem.problem import EdgeKind, Problem
from stretto.compiler.problem.spec import NONE
from stretto.compiler.program.result_flow import ResultFlow

EARLY = 1  # how many units before the one that runs when its message is made a receive is posted
LATE = 1  # how many units after the first one that starts when it has arrived a send is waited for


class Message(Struct, gc=False):
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


class Output(Struct):
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
    rank, head, index, lane_of = order.problem.rank, order.problem.head, times.index, times.lane
    messages = _SentMessages(order.problem, times, data)
    made: list[list[Output]] = []
    for own, lane in enumerate(order.lanes):
        row: list[Output] = []
        for k, unit in enumerate(lane.units):
            for i in unit:
                output = None
                for edge in data.uses[i]:
                    j = head[edge]
                    if index[j] == NONE:
                        continue
                    if output is None:
                        output = Output(i, k)
                        row.append(output)
                    if lane_of[j] == own:
                        if index[j] > output.last:
                            output.last = index[j]
                    elif rank[j] == rank[i]:
                        _use_beside(output, lane_of[j], index[j])
                    else:
                        messages.use(output, own, edge)
        made.append(row)
    for sent in messages.on_channel:
        if sent:
            _post(sent, times.start[sent[0].target])
    if slots is not None:
        for target, starts in enumerate(times.start):
            arriving = [row for row in messages.on_channel if row and row[0].target == target]
            _hold_back(arriving, len(starts), slots)
    for own, row in enumerate(made):
        _wait_for_sends(row, own, times)
    return made


def _use_beside(output: Output, lane: int, unit: int) -> None:
    """Note a use on another lane of the rank."""
    if output.elsewhere is None:
        output.elsewhere = {}
    output.elsewhere[lane] = max(output.elsewhere.get(lane, NONE), unit)


class _SentMessages:
    """The messages so far, channel by channel, each channel's in the order of sending."""

    def __init__(self, problem: Problem, times: Earliest, data: ResultFlow):
        self.problem, self.times, self.data = problem, times, data
        self.on_channel: list[list[Message]] = [[] for _ in data.channels]
        self.channels: dict[tuple[int, int, EdgeKind], int] = {}  # by lanes and kind of edge

    def use(self, output: Output, own: int, edge: int) -> None:
        """Note a use on another rank of a result of the lane `own`: there is one message to each of
        its lanes."""
        times, j = self.times, self.problem.head[edge]
        unit, target = times.index[j], times.lane[j]
        for message in output.messages:
            if message.target == target:
                message.first = min(message.first, unit)
                message.last = max(message.last, unit)
                return
        channel = self.channels.get((own, target, self.problem.why[edge]))
        if channel is None:
            channel = self._channel(output.result, own, edge)
        made, lag = times.end[own][output.made], self.problem.lag[edge]
        message = Message(output.result, channel, target, made, made + lag, unit, unit)
        self.on_channel[channel].append(message)
        output.messages += (message,)

    def _channel(self, i: int, own: int, edge: int) -> int:
        """The channel along which the lane `own` sends the result of operation i, met first."""
        rank, stream, why = self.problem.rank, self.problem.stream, self.problem.why[edge]
        j = self.problem.head[edge]
        channel = self.data.number[rank[i], rank[j], why, stream[i], stream[j]]
        self.channels[own, self.times.lane[j], why] = channel
        return channel


def _post(messages: list[Message], starts: list[int]) -> None:
    """Place the receives of one channel: each `EARLY` units before the unit that runs when its
    message is made, not after its first use, and in the order of sending. `starts`: of the units
    of the lane where they are used."""
    latest = len(starts)
    for message in reversed(messages):
        posted = bisect_right(starts, message.made) - 1 - EARLY
        if posted > message.first:
            posted = message.first
        if posted < latest:
            latest = posted if posted > 0 else 0
        message.posted = latest


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


def _wait_for_sends(row: list[Output], lane: int, times: Earliest) -> None:
    """Place the waits for the messages of a lane: each `LATE` units after the first that starts
    when the message has arrived, and after the one that its receive follows."""
    starts, places = times.start[lane], times.place[lane]
    there, there_places, many = times.end, times.place, len(starts)
    for output in row:
        for message in output.messages:
            arrives, posted = message.arrives, message.posted
            if posted:
                begun = there[message.target][posted - 1]
                if begun > message.made:  # held back: it does not set out before
                    arrives += begun - message.made
            unit = bisect_left(starts, arrives, output.made + 1) + LATE
            if posted and unit < many:
                before = there_places[message.target][posted - 1]
                if places[unit] <= before:
                    unit = bisect_right(places, before, unit)
            unit = min(unit, many)
            if unit > output.send_wait:
                output.send_wait = unit
