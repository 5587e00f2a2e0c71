"""One rank's messages of one step. In come the list's `receive`, `send` and `wait`; out come the
tensors that have arrived.

Where the ranks know what travels, a receive is posted into its buffers when the list says so. In
the step in which a signature is new, its first messages are received late: what a stage gives is
known when its rank has posted it, ahead of the data, so the receive is posted at its `wait`, after
those that the list has before it on the same channel. So that no rank waits for another's late
receive, a `wait` for a send does not stop the list in such a step: what was sent is kept until it
was taken, at the latest until the end of the list.

Why that cannot stand still: a rank then waits for nothing but a message, and that was posted and
sent by an instruction which the plan has before this one; what must be received before it on its
channel was sent before it, too. The plan's order of all instructions, in which the proof has found
no circle, is one in which each comes after what it waits for.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from stretto.runtime import presence
from stretto.runtime.bound import BoundMessage
from stretto.runtime.edges import StepEdges
from stretto.runtime.errors import PipelineError
from stretto.runtime.header import HeaderCheck
from stretto.runtime.rank_context import RankContext
from stretto.runtime.stage.stage_module import Result
from stretto.runtime.topology import StageId, shown
from stretto.runtime.transport import NOTHING, Pending, absent


class Arrival:
    """A message that was announced by the list; posted, it has buffers, and what to wait for."""

    __slots__ = ("buffers", "header", "message", "pending")

    def __init__(self, message: BoundMessage):
        self.message = message
        self.buffers: tuple[Tensor, ...] = ()
        self.pending: Sequence[Pending] | None = None
        self.header: Sequence[Pending] = ()


class Departure(NamedTuple):
    """A message that is being sent, and what to wait for."""

    message: BoundMessage
    pending: Sequence[Pending]


class Unsent:
    """What is being sent from `slot` although the list is past its wait, at instruction `at`."""

    __slots__ = ("at", "departure", "slot", "unchanged")

    def __init__(self, at: int, slot: int, departure: Departure):
        self.at, self.slot, self.departure = at, slot, departure
        self.unchanged: Callable[[], None] | None = None

    def finish(self) -> None:
        """Waits until it was taken. Raises what `unchanged` does."""
        finish(self.departure.pending)
        if self.unchanged is not None:
            self.unchanged()


class Mailbox:
    """See the module. `unsent` is what must be waited for at the end of the list. What a slot holds
    may still be on its way to others while it is among those `leaving` or `kept`."""

    def __init__(self, context: RankContext, edges: StepEdges, header: HeaderCheck | None):
        self.context, self.edges, self.header = context, edges, header
        self.transport = context.transport
        self.at_hand = context.transport.accelerator is None  # what is received, to be looked at
        self.arriving: dict[int, Arrival] = {}  # by slot, as `leaving`
        self.leaving: dict[int, list[Departure]] = {}
        self.late: dict[int, deque[Arrival]] = {}  # by channel
        self.unsent: list[Unsent] = []
        self.lock = threading.Lock()  # of `unsent`, to which every stream of the rank adds
        self.kept: set[int] = set()  # their slots, until these are freed

    def receive(self, message: BoundMessage) -> None:
        """Posts the receive of the result, or leaves that to the wait."""
        arrival = self.arriving[message.slot] = Arrival(message)
        if self.edges.new:
            late = self.late.get(message.channel)
            if late or not self.edges.knows(message.result):
                self.late.setdefault(message.channel, deque()).append(arrival)
                return
        self._post(arrival)

    def send(self, message: BoundMessage, made: Result) -> None:
        """Begins to send what the operation has `made`. Raises `PipelineError` where it cannot be
        sent."""
        to_send = self._sealed(message, made)
        if self.header is None:
            begun = self.transport.send(message.channel, to_send)
        else:
            specs = self.edges.of_result(message.result)
            header = self.header.outgoing(message.channel, message.result, specs)
            begun = [
                *self.transport.send(message.channel, [header]),
                *self.transport.send(message.channel, to_send),
            ]
        self.leaving.setdefault(message.slot, []).append(Departure(message, begun))

    def wait(self, slot: int, at: int) -> Result | None:
        """Waits for what was begun on the slot, at instruction `at`; returns what has arrived in
        it, None where it was sent from."""
        leaving = self.leaving.pop(slot, None)
        if leaving is not None:
            self._sent(slot, at, leaving)
        arrival = self.arriving.pop(slot, None)
        if arrival is None:
            return None
        if arrival.pending is None:
            self._post_late(arrival)
        if self.header is not None:
            finish(arrival.header)
            self.header.compare(arrival.message.channel, arrival.message.result)
        finish(arrival.pending or ())
        if self.unsent:
            self._let_go(arrival)
        return self._opened(arrival)

    def _sent(self, slot: int, at: int, leaving: Sequence[Departure]) -> None:
        """Waits until what leaves was taken, or keeps it for later."""
        for departure in leaving:
            if self.edges.new:
                with self.lock:
                    self.unsent.append(Unsent(at, slot, departure))
                self.kept.add(slot)
            else:
                finish(departure.pending)

    def keep_unchanged(self, slot: int, check: Callable[[], None]) -> None:
        """The slot is freed; `check` is called when what was sent from it was taken."""
        if slot in self.kept:
            self.kept.discard(slot)
            for one in list(self.unsent):
                if one.slot == slot and one.unchanged is None:
                    one.unchanged = check

    def _post_late(self, arrival: Arrival) -> None:
        """Posts what the list has up to this one on the channel, and of what is behind it all whose
        buffers are known by now."""
        late = self.late[arrival.message.channel]
        while arrival.pending is None or (late and self.edges.knows(late[0].message.result)):
            self._post(late.popleft())

    def _post(self, arrival: Arrival) -> None:
        message = arrival.message
        if self.header is not None:
            specs = self.edges.of_result(message.result)
            expected = self.header.incoming(message.channel, message.result, specs)
            arrival.header = self.transport.receive(message.channel, [expected])
        arrival.buffers = buffers = self.edges.buffers(message.result, self.transport.device)
        arrival.pending = self.transport.receive(message.channel, buffers)

    def _sealed(self, message: BoundMessage, made: Result) -> Sequence[Tensor]:
        if message.activation:
            return [tensor for tensor in made if tensor is not None]
        result = message.result
        specs, device = self.edges.of_result(result), self.transport.device
        if self.transport.tells:
            return [NOTHING if gradient is None else presence.dense(gradient) for gradient in made]
        if self.transport.looks:
            at_hand = self.at_hand
            if len(specs) == len(made) == 1:
                return [presence.sealed(made[0], specs[0], device, at_hand)]
            pairs = zip(made, specs, strict=True)
            return [presence.sealed(one, spec, device, at_hand) for one, spec in pairs]
        for gradient, spec in zip(made, specs, strict=True):
            if gradient is None:
                raise PipelineError(
                    f"`{shown(self.context.plan.spec, result)}` has no gradient for {spec} of its "
                    "input, on which its output does not depend. Over this transport a process "
                    "cannot look at what it receives, so the other rank could not be told that "
                    "there is none: give the stage only what it uses"
                )
        return [tensor for tensor in made if tensor is not None]

    def _opened(self, arrival: Arrival) -> Result:
        if arrival.message.activation or not self.transport.looks:
            return arrival.buffers
        if self.transport.tells:
            missing = absent(arrival.pending or ())
            return tuple(None if at in missing else b for at, b in enumerate(arrival.buffers))
        return tuple([presence.opened(buffer, self.at_hand) for buffer in arrival.buffers])

    def _let_go(self, arrival: Arrival) -> None:
        """Of what is kept, lets go of that which was taken: a gradient has arrived of what was sent
        there, or the transport says so."""
        arrived = arrival.message
        sources = self.context.plan.graph.sources[StageId(*arrived.result[1:3])]

        def is_taken(kept: Unsent) -> bool:
            sent, pending = kept.departure
            used = (
                not arrived.activation
                and sent.activation
                and sent.peer == arrived.peer
                and sent.result.microbatch == arrived.result.microbatch
                and StageId(*sent.result[1:3]) in sources
            )
            return used or all(map(_is_over, pending))

        with self.lock:
            taken = [kept for kept in self.unsent if is_taken(kept)]
            self.unsent = [kept for kept in self.unsent if kept not in taken]
        for kept in taken:
            kept.finish()


def finish(pending: Sequence[Pending]) -> None:
    """Waits for all of it."""
    for one in pending:
        one.wait()


def _is_over(pending: Pending) -> bool:
    """Whether it is known to be over. gloo knows it of no send before it has waited."""
    ask = getattr(pending, "is_completed", None)
    return bool(ask is not None and ask())
