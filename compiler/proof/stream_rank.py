"""One rank's list where stages are cut into parts and every instruction stands on a stream:
`walk_streams` follows it once, in its sequence.

Shown here is what `rank` shows of a list, so that one thread can run it from top to bottom; and
that the order which it depends on is kept however fast or slow the streams are (`stream_order`):
each part comes after the one before it in its chain, reads results that are there, fills slots that
are free, and sums come after all gradients. What the rank's streams have in common with others
comes out as a list of events for each of them.
"""

from collections.abc import Callable
from typing import Any

from stretto.compiler.problem.spec import NONE, Operation
from stretto.compiler.program.program import (
    Await,
    BeginReduction,
    BeginUnshard,
    Compute,
    Free,
    Program,
    Receive,
    Reduce,
    Send,
    Wait,
)
from stretto.compiler.proof import rank as by_rank
from stretto.compiler.proof.ledger import (
    AWAIT,
    PART,
    Events,
    Ledger,
    Marks,
    ProcessTrace,
    RankTrace,
)
from stretto.compiler.proof.messages import Wording
from stretto.compiler.proof.parts import COMPUTE, PartObligation, PartObligations
from stretto.compiler.proof.rank import RankWalk
from stretto.compiler.proof.stream_order import SlotOrder, StreamOrder


def walk_streams(
    program: Program, parts: PartObligations, rank: int, ledger: Ledger, words: Wording
) -> RankTrace:
    """Follow the list of `rank`. What is wrong goes into the ledger's findings; the trace is then
    good for counting only."""
    state = StreamWalk(program, parts, rank, ledger, words)
    for i, (one, stream) in enumerate(zip(program.ranks[rank], program.streams[rank], strict=True)):
        state.stream = state.routes.stream = stream
        EFFECTS[type(one)](state, i, one)
    return state.finish()


class StreamEvents(Events):
    """The events of a rank's streams, each for itself, and of all of them in the list's sequence,
    as one thread would run them: an `await` then waits for nothing."""

    __slots__ = ("stream", "streams")

    def __init__(self, streams: int):
        super().__init__()
        self.stream = 0
        self.streams = [Events() for _ in range(streams)]

    def add(self, i: int, tag: int, value: int) -> None:
        """The instruction at place i brings this event to its stream."""
        self.streams[self.stream].add(i, tag, value)
        if tag != AWAIT:
            super().add(i, tag, value)


class StreamWalk(RankWalk):
    """How far the list was followed. `stream`: that of the instruction in question; `sums`: by
    stage the last place of a backward's part, by stream; `begun_on`: by slot the stream of the
    messages begun on it."""

    def __init__(
        self, program: Program, parts: PartObligations, rank: int, ledger: Ledger, words: Wording
    ):
        many = len(program.spec.streams)
        self.routes = StreamEvents(many)
        super().__init__(program, parts.stages, rank, ledger, words, self.routes)
        self.parts, self.stream = parts, COMPUTE
        self.streams = program.spec.streams
        self.order = StreamOrder(many)
        self.slot_order = SlotOrder(self.order, self.streams, self.findings)
        self.awaited = {one.operation for one in program.ranks[rank] if type(one) is Await}
        self.limited = bool(program.spec.limits) and program.spec.limits[rank] is not None
        self.ran: list[list[tuple[Operation, ...]]] = [[] for _ in range(many)]
        self.stream_marks: list[Marks] = [{} for _ in range(many)]
        self.sums: dict[tuple[int, int], dict[int, int]] = {}
        self.begun_on: dict[int, int] = {}
        self.filled: dict[bool, set[int]] = {True: set(), False: set()}  # by whether received
        self.done.left = {
            place: sum(
                one.microbatches
                for (kind, *at, _), one in parts.of.items()
                if kind != "F" and tuple(at) == place
            )
            for place in parts.stages.trained.get(rank, ())
        }

    def finish(self) -> RankTrace:
        """What must be so after the last instruction."""
        trace = super().finish()
        routes = self.routes
        return trace._replace(
            processes=tuple(
                ProcessTrace(self.rank, k, own.values, own.places, self.stream_marks[k])
                for k, own in enumerate(routes.streams)
            ),
            together=ProcessTrace(self.rank, COMPUTE, routes.values, routes.places, {}),
            units=[unit for ran in self.ran for unit in ran],
            receives=len(self.filled[True]),
            outputs=len(self.filled[False]),
        )

    def after(self, i: int, operation: Operation, why: str) -> None:
        """The instruction at i comes after the end of this operation of the rank, `why`."""
        number = self.parts.number(operation)
        place = self.ledger.parts.placed[number]
        words = self.findings.words
        if place < 0:
            text = f"{words.operation(operation)} comes later in the list, {why}"
            self.findings.fault("too-early", i, text)
            return
        stream = self.program.streams[self.rank][place]
        if not self.order.before(place, stream, self.stream):
            text = f"nothing on `{self.streams[self.stream]}` waits for "
            text += f"{words.operation(operation)} on `{self.streams[stream]}`"
            self.findings.fault("unordered-streams", i, text, self.findings.here(place, why))

    def usable(self, i: int, channel: int, sending: bool, result: Operation) -> bool:
        """Whether the message may travel on this channel, from or to this stream."""
        if not super().usable(i, channel, sending, result):
            return False
        own = self.program.channels[channel]
        stream = own.source_stream if sending else own.target_stream
        if stream != self.stream:
            name, here = self.streams[stream], self.streams[self.stream]
            text = f"this end of channel {channel} is on `{name}`, this stands on `{here}`"
            self.findings.fault("wrong-stream", i, text)
            return False
        return True

    def on_compute(self, i: int) -> None:
        """What is done once for a stage stands on the first stream."""
        if self.stream != COMPUTE:
            text = f"this stands on `{self.streams[self.stream]}`, not on `{self.streams[COMPUTE]}`"
            self.findings.fault("wrong-stream", i, text)

    def after_gradients(self, i: int, stage: tuple[int, int]) -> None:
        """The instruction at i comes after every backward's part of the stage that stands before
        it in the list."""
        for stream, place in self.sums.get(stage, {}).items():
            if not self.order.before(place, stream, self.stream):
                text = f"nothing on `{self.streams[self.stream]}` waits for gradients of the stage"
                where = self.findings.here(place, f"computed on `{self.streams[stream]}`")
                self.findings.fault("unordered-streams", i, text, where)


def compute(walk: StreamWalk, i: int, one: Compute) -> None:
    """A part runs."""
    operation, fault = one.operation, walk.findings.fault
    number = walk.parts.number(operation)
    if number == NONE:
        fault("no-such-duty", i, "this is not an operation of the schedule")
        return
    kind, p, s, microbatch, _, x = operation
    obligation = walk.parts.of[kind, p, s, x]
    if obligation.rank != walk.rank:
        fault("wrong-rank", i, f"its stage is on rank {obligation.rank}")
        return
    if not obligation.stream == walk.stream == one.stream:
        name = walk.streams[obligation.stream]
        fault("wrong-stream", i, f"this part belongs on `{name}`")
        return
    if one.unit != NONE:
        fault("wrong-overlap", i, "parts are no halves of an overlapped unit")
    table = walk.ledger.parts
    if table.placed[number] >= 0:
        fault("repeated-operation", i, "this was done before")
        return
    if kind == "F":
        walk.collectives.forward(i, (p, s))
    _needed(walk, i, operation, obligation)
    for slot, (letter, q, t, y) in zip(one.reads, obligation.needs, strict=False):
        content, needed = walk.slots.read(i, slot), (letter, q, t, microbatch, NONE, y)
        if content is not None and content.operation != needed:
            walk.slots.wrong(i, slot, content, Operation(*needed))
        walk.slot_order.use(i, slot, walk.stream)
    if len(one.reads) != len(obligation.needs):
        many = len(obligation.needs)
        fault("wrong-input", i, f"it needs {many} results, and reads {len(one.reads)}")
    if one.writes != NONE:
        walk.slots.fill(i, one.writes, operation)
        walk.slot_order.fill(i, one.writes, walk.stream, ready=True)
        walk.filled[False].add(one.writes)
        if not obligation.wanted:
            fault("wrong-result", i, "nothing needs a result")
    elif obligation.wanted:
        fault("wrong-result", i, "its result is needed, but is not kept")
    if walk.parts.across:
        events = walk.routes.streams[walk.stream].values
        walk.stream_marks[walk.stream][len(events)] = [operation]
    _done(walk, i, operation, obligation, number)


def _needed(walk: StreamWalk, i: int, operation: Operation, obligation: PartObligation) -> None:
    """What of this rank must have ended before."""
    if obligation.before is not None:
        kind, p, s, x = obligation.before
        walk.after(i, Operation(kind, p, s, operation.microbatch, NONE, x), "it needs that part")
    for earlier in walk.parts.before.get(operation, ()):
        walk.after(i, earlier, "a rule puts it before")


def _done(
    walk: StreamWalk, i: int, operation: Operation, obligation: PartObligation, number: int
) -> None:
    """Note that the operation was done."""
    table, costs = walk.ledger.parts, walk.obligations.costs
    exceptional = walk.obligations.exceptional
    table.placed[number] = i
    table.lasting[number] = costs.of(operation) if exceptional else obligation.ticks
    walk.ran[walk.stream].append((operation,))
    walk.events.add(i, PART, number)
    if operation in walk.awaited:
        walk.order.end(number, i, walk.stream)
    if walk.limited:
        heard = walk.order.heard[walk.stream][:]
        heard[walk.stream] = i - 1
        table.heard[number] = tuple(heard)
    if operation.kind != "F":
        stage = operation.pipeline, operation.stage
        walk.done.left[stage] -= 1
        walk.sums.setdefault(stage, {})[walk.stream] = i


def receive(walk: StreamWalk, i: int, one: Receive) -> None:
    """A receive is posted on the stream that waits for it."""
    known = walk.parts.number(one.result) != NONE
    if not known:
        walk.findings.fault("no-such-duty", i, "this is not an operation of the schedule")
        return
    many = len(walk.routes.values)
    by_rank.receive(walk, i, one)
    if len(walk.routes.values) > many:
        walk.slot_order.fill(i, one.slot, walk.stream, ready=False)
        walk.filled[True].add(one.slot)
        walk.begun_on[one.slot] = walk.stream


def send(walk: StreamWalk, i: int, one: Send) -> None:
    """A send begins."""
    many = len(walk.routes.values)
    by_rank.send(walk, i, one)
    if len(walk.routes.values) > many:
        walk.slot_order.use(i, one.slot, walk.stream)
        if one.slot in walk.begun_on and walk.begun_on[one.slot] != walk.stream:
            text = f"another message of slot {one.slot} was begun on another stream"
            walk.findings.fault("wrong-stream", i, text)
        walk.begun_on[one.slot] = walk.stream


def wait(walk: StreamWalk, i: int, one: Wait) -> None:
    """The stream waits until the messages begun on a slot are over, which were begun on it."""
    begun = walk.begun_on.pop(one.slot, walk.stream)
    if begun != walk.stream:
        text = f"its messages were begun on `{walk.streams[begun]}`"
        walk.findings.fault("wrong-stream", i, text)
    by_rank.wait(walk, i, one)
    walk.slot_order.arrive(i, one.slot, walk.stream)


def free(walk: StreamWalk, i: int, one: Free) -> None:
    """A slot is given back."""
    by_rank.free(walk, i, one)
    walk.slot_order.free(i, one.slot, walk.stream)


def await_(walk: StreamWalk, i: int, one: Await) -> None:
    """The stream goes on when a computation of another stream has ended."""
    fault = walk.findings.fault
    number = walk.parts.number(one.operation)
    obligation = walk.parts.of[_key(one.operation)] if number != NONE else None
    if obligation is None or obligation.rank != walk.rank:
        fault("no-such-duty", i, "this is not an operation of this rank")
        return
    place = walk.ledger.parts.placed[number]
    if place < 0:
        fault("too-early", i, "what it names stands behind it in the list")
    elif walk.order.before(place, obligation.stream, walk.stream):
        fault("idle-wait", i, "what it names comes before it already")
    else:
        walk.order.hear(number, walk.stream)
        walk.events.add(i, AWAIT, number)


def _key(operation: Operation) -> tuple[str, int, int, int]:
    return operation.kind, operation.pipeline, operation.stage, operation.part


def reduce(walk: StreamWalk, i: int, one: Reduce) -> None:
    """The gradients of the copies of a stage are summed, on the first stream."""
    walk.on_compute(i)
    by_rank.reduce(walk, i, one)
    if 0 <= one.reduction < len(walk.program.reductions):
        for copy in walk.program.reductions[one.reduction].copies:
            if copy.rank == walk.rank:
                walk.after_gradients(i, copy[:2])


def reduce_gradients(walk: StreamWalk, i: int, one: BeginReduction) -> None:
    """The gradients of a stage are averaged with those of its replicas."""
    walk.on_compute(i)
    by_rank.reduce_gradients(walk, i, one)
    walk.after_gradients(i, (one.pipeline, one.stage))


def unshard_weights(walk: StreamWalk, i: int, one: BeginUnshard) -> None:
    """The weights of a stage are gathered."""
    walk.on_compute(i)
    by_rank.unshard_weights(walk, i, one)


EFFECTS: dict[type, Callable[[StreamWalk, int, Any], None]] = {
    Compute: compute,
    Receive: receive,
    Send: send,
    Wait: wait,
    Free: free,
    Reduce: reduce,
    BeginReduction: reduce_gradients,
    BeginUnshard: unshard_weights,
    Await: await_,
}
"""By the type of an instruction what it does to the rank."""
