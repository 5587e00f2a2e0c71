"""One rank's list by itself: `walk` follows it from top to bottom, supposing that every receive
brings the result it names (whether it does is for `prove` to compare, channel by channel).

Shown here: each operation is one of this rank's obligations, comes once and after what it needs on
this rank, reads exactly the results that it needs and leaves its own where somebody needs it; a
slot is written while empty, read while it holds something, freed once, and none is left; overlapped
units are legal; gradients are summed after the last of them. Counted on the way: the peaks. What
the rank has in common with others comes out as a list of events and in the `Ledger`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from stretto.compiler.diagnostics.diagnostic import Diagnostic
from stretto.compiler.problem.spec import NONE, Operation
from stretto.compiler.program.program import (
    Compute,
    Free,
    Instruction,
    Program,
    Receive,
    Reduce,
    Send,
    Wait,
)
from stretto.compiler.proof.ledger import MEET, POSTED, RUN, SENT, SHIFT, WAIT, Ledger, RankTrace
from stretto.compiler.proof.messages import Location, Wording
from stretto.compiler.proof.obligations import BITS, ENDS, INPUT, Obligation, Obligations

FEW = 4  # findings of one kind on one rank that are told one by one


class _Content:
    """What a slot holds, or will when it has arrived; where it was filled; whether it was used."""

    __slots__ = ("arriving", "at", "operation", "received", "used")

    def __init__(self, operation: Operation, at: int, received: bool):
        self.operation = operation
        self.at = at
        self.received = received
        self.arriving = received
        self.used = False


class _Open(NamedTuple):
    """An overlapped unit whose first half was run: its event is completed by the second."""

    unit: int
    first: Compute
    at: int
    event: int


def walk(
    program: Program, obligations: Obligations, rank: int, ledger: Ledger, words: Wording
) -> RankTrace:
    """Follow the list of `rank`. What is wrong goes into the ledger's findings; the trace is
    then good for counting only."""
    return _Walk(program, obligations, rank, ledger, words).run()


class _Walk:
    def __init__(
        self, program: Program, obligations: Obligations, rank: int, ledger: Ledger, words: Wording
    ):
        self.program, self.obligations, self.rank = program, obligations, rank
        self.ledger, self.words = ledger, words
        self.slots: dict[int, _Content] = {}
        self.begun: dict[int, list[int]] = {}  # messages begun on a slot and not waited for
        self.open: _Open | None = None
        self.overlapped: set[int] = set()  # units that are over
        self.reduced: set[int] = set()
        self.left = _gradients(obligations, rank)
        self.events: list[int] = []
        self.places: list[int] = []
        self.units: list[tuple[Operation, ...]] = []
        self.marks: dict[int, list[Operation]] = {}
        limit = obligations.spec.limits[rank] if obligations.spec.limits else None
        self.limit = None if limit is None else limit.grains
        self.activations = self.peak = 0
        self.over, self.over_at = 0, NONE
        self.receives = self.most_receives = self.outputs = self.most_outputs = 0
        self.told: dict[str, int] = {}

    def run(self) -> RankTrace:
        steps: dict[type, Callable[[int, Any], None]] = {
            Compute: self.compute,
            Receive: self.receive,
            Send: self.send,
            Wait: self.wait,
            Free: self.free,
            Reduce: self.reduce,
        }
        for i, instruction in enumerate(self.program.ranks[self.rank]):
            kind = type(instruction)
            if self.open is not None and kind is not Compute:
                self.between(i, instruction, self.open)
            steps[kind](i, instruction)
        self.finish()
        return RankTrace(
            self.events,
            self.places,
            self.units,
            self.peak,
            self.over,
            self.over_at,
            self.most_receives,
            self.most_outputs,
            self.marks,
        )

    # ------------------------------------------------------------------------ computing

    def compute(self, i: int, compute: Compute) -> None:
        operation = compute.operation
        obligation = self.obligations.of.get(operation[:3])
        if obligation is None or not self.exists(operation, obligation):
            self.fault("no-such-duty", i, "this is not an operation of the schedule")
            return
        if obligation.rank != self.rank:
            self.fault("wrong-rank", i, f"its stage is on rank {obligation.rank}")
            return
        if compute.stream != 0:
            self.fault("unknown-stream", i, f"stream {compute.stream} is not known to this version")
        self.mark_done(i, operation, obligation)
        self.read(i, compute, obligation)
        self.time(i, compute, obligation)
        if compute.writes != NONE:
            self.fill(i, compute.writes, _Content(operation, i, False))
            self.outputs += 1
            if self.outputs > self.most_outputs:
                self.most_outputs = self.outputs
        if (compute.writes != NONE) != obligation.wanted:
            self.fault(
                "wrong-result",
                i,
                "its result is needed, but is not kept"
                if obligation.wanted
                else "nothing needs a result",
            )
        if obligation.take:
            self.activations += obligation.take
            if self.activations > self.peak:
                self.peak = self.activations
                if self.limit is not None and self.over_at == NONE and self.peak > self.limit:
                    self.over, self.over_at = self.peak, i
        self.activations -= obligation.give

    def exists(self, operation: Operation, obligation: Obligation) -> bool:
        _, _, _, microbatch, slice_, part = operation
        slices = self.obligations.spec.slices
        known = 0 <= slice_ < slices if slices else slice_ == NONE
        return known and part == NONE and 0 <= microbatch < obligation.microbatches

    def mark_done(self, i: int, operation: Operation, obligation: Obligation) -> None:
        """Note that the operation was done; complain if it was before, or if something on this
        rank should have been done first: its forward, its input gradient, the slice before it."""
        done, width, slice_ = self.ledger.done, self.obligations.width, operation.slice
        entry = obligation.base + operation.microbatch * width + (slice_ if slice_ > 0 else 0)
        state = done[entry]
        if state & obligation.bars:
            self.fault("repeated-operation", i, "this was done before, or is part of what was")
            return
        if state & obligation.after != obligation.after:
            first = "input gradient" if state & 1 else "forward"
            self.fault("too-early", i, f"its {first} has not been computed yet")
        kind = operation.kind
        if width > 1 and kind != "W":
            before = slice_ - 1 if kind == "F" else slice_ + 1
            state_before = done[entry + before - slice_] if 0 <= before < width else 255
            if not state_before & (BITS["F"] if kind == "F" else BITS["B"] | INPUT):
                self.fault("too-early", i, f"slice {before} comes first")
        done[entry] = state | obligation.bit
        if kind in "BW":
            self.left[operation[1:3]] -= 1
        if self.obligations.before:
            self.follow_rules(i, operation)
        if self.obligations.across:
            event = len(self.events) if self.open is None else self.open.event
            self.marks.setdefault(event, []).append(operation)

    def follow_rules(self, i: int, operation: Operation) -> None:
        """What a rule puts before the operation on this rank must have been done, and not as the
        other half of the same overlapped unit, which ends no earlier than this begins."""
        for earlier in self.obligations.before.get(operation, ()):
            _, p, s, microbatch, slice_, _ = earlier
            entry = (
                self.obligations.bases[p, s] + microbatch * self.obligations.width + max(slice_, 0)
            )
            bits = sum(BITS[kind] for kind in ENDS[earlier.kind])
            beside = self.open is not None and self.open.first.operation == earlier
            if not self.ledger.done[entry] & bits or beside:
                self.fault("too-early", i, f"a rule puts it after {self.words.operation(earlier)}")

    def read(self, i: int, compute: Compute, obligation: Obligation) -> None:
        """The slots read hold what the operation needs, in this order: the result of the stage
        before it (of a gradient: after it), then those of the pipelines that feed it."""
        needs = obligation.needs
        if len(compute.reads) != len(needs):
            self.fault(
                "wrong-input", i, f"it needs {len(needs)} results, and reads {len(compute.reads)}"
            )
            return
        _, _, _, microbatch, slice_, part = compute.operation
        for slot, (kinds, p, s) in zip(compute.reads, needs, strict=True):
            content = self.slots.get(slot)
            if content is None:
                self.fault("empty-slot", i, f"it reads slot {slot}, which holds nothing")
                continue
            if content.arriving:
                where = (self.rank, content.at), "the receive was posted here"
                self.fault(
                    "still-arriving", i, f"it reads slot {slot} before the wait for it", where
                )
            content.used = True
            held = content.operation
            if held[0] not in kinds or held[1:] != (p, s, microbatch, slice_, part):
                need = Operation(kinds[0], p, s, microbatch, slice_)
                self.fault(
                    "wrong-input",
                    i,
                    f"it needs the result of {self.words.operation(need)}, but slot {slot} holds "
                    f"that of {self.words.operation(held)}",
                    ((self.rank, content.at), f"slot {slot} was filled here"),
                )

    def time(self, i: int, compute: Compute, obligation: Obligation) -> None:
        """The event of the computation; of an overlapped unit there is one, and its second half
        says how long."""
        operation, unit = compute.operation, compute.unit
        if unit == NONE and self.open is None:
            costs = self.obligations.costs
            ticks = costs.of(operation) if self.obligations.exceptional else obligation.ticks
            self.event(i, RUN, ticks)
            self.units.append((operation,))
        elif self.open is None:
            if unit in self.overlapped:
                self.fault("wrong-overlap", i, f"overlapped unit {unit} was already complete")
            if operation.kind != "F":
                self.fault("wrong-overlap", i, "an overlapped unit begins with its forward")
            self.open = _Open(unit, compute, i, len(self.events))
            self.event(i, RUN, 0)
        else:
            self.close(i, compute, self.open)

    def close(self, i: int, compute: Compute, opened: _Open) -> None:
        """The second half of an overlapped unit."""
        first, second = opened.first.operation, compute.operation
        where = (self.rank, opened.at), "the first half of the overlapped unit"
        self.open = None
        self.overlapped.add(opened.unit)
        self.units.append((first, second))
        if compute.unit != opened.unit:
            self.fault("wrong-overlap", i, f"overlapped unit {opened.unit} is not complete", where)
        elif second.kind not in self.obligations.spec.overlap:
            self.fault(
                "wrong-overlap", i, f"the schedule does not let {second.kind} overlap F", where
            )
        elif (first.pipeline, first.microbatch) == (second.pipeline, second.microbatch):
            self.fault("wrong-overlap", i, "both halves are of the same micro-batch", where)
        else:
            self.events[opened.event] = self.obligations.costs.pair(first, second) << SHIFT | RUN

    def between(self, i: int, instruction: Instruction, opened: _Open) -> None:
        """Between the halves of an overlapped unit the first one's result leaves, and what it
        read is freed; anything else would tear them apart."""
        first = opened.first
        leaves = type(instruction) is Send and instruction.slot == first.writes
        frees = type(instruction) is Free and instruction.slot in first.reads
        if not leaves and not frees:
            where = (self.rank, opened.at), "its first half"
            self.fault("wrong-overlap", i, "this stands inside an overlapped unit", where)

    # ------------------------------------------------------------------------ slots

    def fill(self, i: int, slot: int, content: _Content) -> None:
        held = self.slots.get(slot)
        if held is not None:
            where = (self.rank, held.at), f"slot {slot} was filled here"
            what = self.words.operation(held.operation)
            self.fault("slot-in-use", i, f"slot {slot} still has the result of {what}", where)
        elif slot < 0:
            self.fault("empty-slot", i, f"there is no slot {slot}")
        self.slots[slot] = content

    def receive(self, i: int, receive: Receive) -> None:
        slot, channel, result = receive.slot, receive.channel, receive.result
        if not self.usable(i, channel, sending=False, result=result):
            return
        self.fill(i, slot, _Content(result, i, True))
        self.receives += 1
        if self.receives > self.most_receives:
            self.most_receives = self.receives
        posted = self.ledger.posted[channel]
        message = len(posted) * self.ledger.channels + channel
        posted.append(result)
        self.ledger.posted_at[channel].append(i)
        self.begun[slot] = [message]
        self.event(i, POSTED, message)

    def send(self, i: int, send: Send) -> None:
        slot, channel = send.slot, send.channel
        content = self.slots.get(slot)
        if content is None:
            self.fault("empty-slot", i, f"slot {slot} holds nothing")
            return
        if content.arriving:
            where = (self.rank, content.at), "the receive was posted here"
            self.fault("still-arriving", i, f"slot {slot} is sent before the wait for it", where)
            return
        if not self.usable(i, channel, sending=True, result=content.operation):
            return
        content.used = True
        sent = self.ledger.sent[channel]
        message = len(sent) * self.ledger.channels + channel
        sent.append(content.operation)
        self.ledger.sent_at[channel].append(i)
        self.begun.setdefault(slot, []).append(message)
        self.event(i, SENT, message)

    def usable(self, i: int, channel: int, sending: bool, result: Operation) -> bool:
        """Whether the message may travel on this channel."""
        if not 0 <= channel < self.ledger.channels:
            self.fault("wrong-channel", i, f"the plan has no channel {channel}")
            return False
        source, target, traffic = self.program.channels[channel]
        if self.rank != (source if sending else target):
            self.fault("wrong-channel", i, f"channel {channel} goes from rank {source} to {target}")
            return False
        if traffic != ("activation" if result.kind == "F" else "gradient"):
            self.fault("wrong-channel", i, f"channel {channel} is for {traffic}s")
        return True

    def wait(self, i: int, wait: Wait) -> None:
        messages = self.begun.pop(wait.slot, None)
        if messages is None:
            self.fault("idle-wait", i, f"nothing was begun on slot {wait.slot}")
            return
        for message in messages:
            self.event(i, WAIT, message)
        self.slots[wait.slot].arriving = False

    def free(self, i: int, free: Free) -> None:
        slot = free.slot
        content = self.slots.pop(slot, None)
        if content is None:
            self.fault("empty-slot", i, f"slot {slot} is already free")
            return
        where = (self.rank, content.at), f"slot {slot} was filled here"
        if self.begun.pop(slot, None) is not None:
            way = "arriving" if content.arriving else "leaving"
            self.fault("slot-in-use", i, f"its message is still {way}: no wait came before", where)
        elif not content.used:
            what = self.words.operation(content.operation)
            self.fault("unused-result", i, f"nothing used the result of {what} in it", where)
        if content.received:
            self.receives -= 1
        else:
            self.outputs -= 1

    # ------------------------------------------------------------------------ sums, the end

    def reduce(self, i: int, reduce: Reduce) -> None:
        number = reduce.reduction
        if not 0 <= number < len(self.program.reductions):
            self.fault("wrong-sum", i, f"the plan has no sum number {number}")
            return
        copies = self.program.reductions[number].copies
        if not self.obligations.train:
            self.fault("wrong-sum", i, "an evaluation computes no gradients")
        elif number in self.reduced:
            self.fault("wrong-sum", i, "this was summed before")
        elif self.rank not in [copy.rank for copy in copies]:
            self.fault("wrong-sum", i, "this rank has none of the copies")
        for copy in copies:
            if copy.rank == self.rank and self.left.get(copy[:2], 0):
                missing = self.left[copy[:2]]
                where = self.words.copies([copy])
                self.fault("wrong-sum", i, f"{missing} weight gradients of {where} come later")
        self.reduced.add(number)
        self.event(i, MEET, number)

    def finish(self) -> None:
        """What must be so after the last instruction."""
        if self.open is not None:
            self.fault("wrong-overlap", self.open.at, "the overlapped unit has no second half")
        for slot, content in self.slots.items():
            what = self.words.operation(content.operation)
            self.fault(
                "slot-left", content.at, f"slot {slot}, with the result of {what}, is never freed"
            )
        for number, reduction in enumerate(self.program.reductions):
            mine = self.rank in [copy.rank for copy in reduction.copies]
            if self.obligations.train and mine and number not in self.reduced:
                what = self.words.reduction(reduction)
                self.ledger.findings.append(
                    Diagnostic("wrong-sum", f"rank {self.rank} never runs the {what}")
                )
        for code, many in self.told.items():
            if many > FEW:
                message = f"rank {self.rank}: {many - FEW} more findings of this kind"
                self.ledger.findings.append(Diagnostic(code, message))

    def event(self, i: int, tag: int, value: int) -> None:
        self.events.append(value << SHIFT | tag)
        self.places.append(i)

    def fault(self, code: str, i: int, message: str, *others: tuple[Location, str]) -> None:
        told = self.told[code] = self.told.get(code, 0) + 1
        if told <= FEW:
            self.ledger.findings.append(self.words.finding(code, (self.rank, i), message, *others))


def _gradients(obligations: Obligations, rank: int) -> dict[tuple[int, int], int]:
    """How many weight gradients each stage of the rank will have."""
    found: dict[tuple[int, int], int] = {}
    for p, pipeline in enumerate(obligations.spec.pipelines):
        for s, stage in enumerate(pipeline.stages):
            if stage.rank == rank and obligations.backward(p):
                found[p, s] = pipeline.microbatches * obligations.width
    return found
