"""Order → its messages: every result that somebody uses, with the place in the lists of each
receive, wait and free that it asks for. `docs/instructions.md` says where they stand and why."""

from bisect import bisect_left, bisect_right

from msgspec import Struct

from stretto.compiler.order import Order
from stretto.compiler.order.earliest_start import Earliest
from stretto.compiler.problem.problem import Problem
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
    on_channel: list[list[Message]] = [[] for _ in data.channels]
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
                        _use_elsewhere(output, edge, order.problem, times, data, on_channel)
        made.append(row)
    for messages in on_channel:
        _post(messages, times)
    if slots is not None:
        for target, starts in enumerate(times.start):
            arriving = [row for row in on_channel if row and row[0].target == target]
            _hold_back(arriving, len(starts), slots)
    for own, row in enumerate(made):
        _wait_for_sends(row, own, times)
    return made


def _use_beside(output: Output, lane: int, unit: int) -> None:
    """Note a use on another lane of the rank."""
    if output.elsewhere is None:
        output.elsewhere = {}
    output.elsewhere[lane] = max(output.elsewhere.get(lane, NONE), unit)


def _use_elsewhere(
    output: Output,
    edge: int,
    problem: Problem,
    times: Earliest,
    data: ResultFlow,
    on_channel: list[list[Message]],
) -> None:
    """Note a use on another rank: there is one message to each of its lanes."""
    i, j = output.result, problem.head[edge]
    unit, target = times.index[j], times.lane[j]
    for message in output.messages:
        if message.target == target:
            message.first = min(message.first, unit)
            message.last = max(message.last, unit)
            return
    rank, stream = problem.rank, problem.stream
    channel = data.number[rank[i], rank[j], problem.why[edge], stream[i], stream[j]]
    made, lag = times.end[times.lane[i]][output.made], problem.lag[edge]
    message = Message(i, channel, target, made, made + lag if lag else made, unit, unit)
    on_channel[channel].append(message)
    output.messages += (message,)


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


def _wait_for_sends(row: list[Output], lane: int, times: Earliest) -> None:
    """Place the waits for the messages of a lane: each `LATE` units after the first that starts
    when the message has arrived, and after the one that its receive follows."""
    starts, places = times.start[lane], times.place[lane]
    for output in row:
        for message in output.messages:
            arrives = message.arrives
            if message.posted:
                posted = times.end[message.target][message.posted - 1]
                if posted > message.made:  # held back: it does not set out before
                    arrives += posted - message.made
            unit = bisect_left(starts, arrives, output.made + 1) + LATE
            if message.posted:
                before = times.place[message.target][message.posted - 1]
                unit = max(unit, bisect_right(places, before))
            unit = min(unit, len(starts))
            if unit > output.send_wait:
                output.send_wait = unit
