"""One rank's list by itself: `walk` follows it from top to bottom, supposing that every receive
brings the result it names (whether it does is for `prove` to compare, channel by channel).

Shown here: each operation is one of this rank's obligations, comes once and after what it needs on
this rank (`done`), reads exactly the results that it needs and leaves its own where somebody needs
it; slots are used rightly (`slots`); overlapped units are legal (`overlapped`); gradients are
summed after the last of them. Counted on the way: the peaks. What the rank has in common with
others comes out as a list of events and in the `Ledger`.
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
from stretto.compiler.proof.collectives import Collectives
from stretto.compiler.proof.done import DoneOperations
from stretto.compiler.proof.findings import RankFindings
from stretto.compiler.proof.kinds import KINDS
from stretto.compiler.proof.ledger import (
    MEET,
    POSTED,
    RUN,
    SENT,
    WAIT,
    Events,
    Ledger,
    ProcessTrace,
    RankTrace,
)
from stretto.compiler.proof.memory import Memory
from stretto.compiler.proof.messages import Wording
from stretto.compiler.proof.obligations import Obligations, RequiredInput
from stretto.compiler.proof.overlapped import OverlappedUnits
from stretto.compiler.proof.slots import Slots


def walk(
    program: Program, obligations: Obligations, rank: int, ledger: Ledger, words: Wording
) -> RankTrace:
    """Follow the list of `rank`. What is wrong goes into the ledger's findings; the trace is
    then good for counting only."""
    state = RankWalk(program, obligations, rank, ledger, words, Events())
    overlap, effects = state.overlap, EFFECTS
    for i, instruction in enumerate(program.ranks[rank]):
        effect = effects[type(instruction)]
        if overlap.open is not None and effect is not compute:
            overlap.between(i, instruction, overlap.open)
        effect(state, i, instruction)
    return state.finish()


class RankWalk:
    """How far the list was followed. `events` takes what the rank has in common with others."""

    def __init__(
        self,
        program: Program,
        obligations: Obligations,
        rank: int,
        ledger: Ledger,
        words: Wording,
        events: Events,
    ):
        self.program, self.obligations, self.rank, self.ledger = program, obligations, rank, ledger
        self.findings = RankFindings(rank, ledger, words)
        self.events, self.add = events, events.add
        self.slices = obligations.spec.slices
        self.done = DoneOperations(obligations, rank, ledger, self.findings)
        self.overlap = OverlappedUnits(obligations, self.events, self.findings)
        self.slots = Slots(self.findings)
        self.memory = Memory(obligations.spec, rank)
        self.activations = {k for k, kind in KINDS.items() if kind.leaves == "activation"}
        self.proper: set[tuple[int, bool, str]] = set()  # messages that `usable` has passed
        self.marks: dict[int, list[Operation]] = {}
        self.reduced: set[int] = set()
        self.collectives = Collectives(program, obligations, rank, self.events, self.findings)

    def finish(self) -> RankTrace:
        """What must be so after the last instruction."""
        self.overlap.close()
        self.slots.close()
        for number, reduction in enumerate(self.program.reductions):
            mine = self.rank in [copy.rank for copy in reduction.copies]
            if self.obligations.train and mine and number not in self.reduced:
                what = self.findings.words.reduction(reduction)
                self.findings.missing("wrong-sum", f"rank {self.rank} never runs the {what}")
        self.collectives.close()
        self.findings.close()
        events = self.events
        return RankTrace(
            (ProcessTrace(self.rank, 0, events.values, events.places, self.marks),),
            self.overlap.units,
            self.memory.peak,
            self.memory.over,
            self.memory.over_at,
            self.slots.most_receives,
            self.slots.most_outputs,
        )

    def read(
        self, i: int, reads: tuple[int, ...], needs: tuple[RequiredInput, ...], of: Operation
    ) -> None:
        """The slots read hold what the operation `of` needs, in this order: the result of the stage
        before it (of a gradient: after it), then those of the pipelines that feed it; all of its
        own micro-batch, slice and part."""
        if len(reads) != len(needs):
            message = f"it needs {len(needs)} results, and reads {len(reads)}"
            self.findings.fault("wrong-input", i, message)
            return
        microbatch, slice_, part = of[3], of[4], of[5]
        for k, (kinds, p, s) in enumerate(needs):
            slot = reads[k]
            content = self.slots.read(i, slot)
            if content is not None:
                held = content.operation
                kind = held[0]
                if kind not in kinds or held != (kind, p, s, microbatch, slice_, part):
                    wanted = Operation(kinds[0], p, s, microbatch, slice_, part)
                    self.slots.wrong(i, slot, content, wanted)

    def usable(self, i: int, channel: int, sending: bool, result: Operation) -> bool:
        """Whether the message may travel on this channel."""
        like = channel, sending, result[0]
        if like in self.proper:
            return True
        fault = self.findings.fault
        if not 0 <= channel < self.ledger.channels:
            fault("wrong-channel", i, f"the plan has no channel {channel}")
            return False
        source, target, traffic, *_ = self.program.channels[channel]
        if self.rank != (source if sending else target):
            fault("wrong-channel", i, f"channel {channel} goes from rank {source} to {target}")
            return False
        if traffic != ("activation" if result.kind in self.activations else "gradient"):
            fault("wrong-channel", i, f"channel {channel} is for {traffic}s")
        else:
            self.proper.add(like)
        return True


def compute(walk: RankWalk, i: int, one: Compute) -> None:
    """An operation runs."""
    operation, obligations, findings = one.operation, walk.obligations, walk.findings
    kind, p, s, microbatch, slice_, part = operation  # once: this takes longer than it looks
    obligation = obligations.of.get((kind, p, s))
    known = slice_ == NONE if not walk.slices else 0 <= slice_ < walk.slices
    if (
        obligation is None
        or not known
        or part != NONE
        or not 0 <= microbatch < obligation.microbatches
    ):
        findings.fault("no-such-duty", i, "this is not an operation of the schedule")
        return
    if obligation.rank != walk.rank:
        findings.fault("wrong-rank", i, f"its stage is on rank {obligation.rank}")
        return
    if one.stream != 0:
        findings.fault("wrong-stream", i, f"the schedule has no stream {one.stream}")
    if obligations.gathers and kind in walk.activations:
        walk.collectives.forward(i, (p, s))
    opened = walk.overlap.open
    entry = obligation.base + microbatch * obligations.width + (slice_ if slice_ > 0 else 0)
    new = walk.done.mark(i, operation, obligation, entry, opened and opened.first.operation)
    if new and obligations.across:
        walk.marks.setdefault(walk.overlap.event, []).append(operation)
    if obligation.needs or one.reads:
        walk.read(i, one.reads, obligation.needs, operation)
    if opened is None and one.unit == NONE:
        exceptional = obligations.exceptional
        ticks = obligations.costs.of(operation) if exceptional else obligation.ticks
        walk.overlap.units.append((operation,))
        walk.add(i, RUN, ticks)
    else:
        walk.overlap.half(i, one, obligation)
    writes = one.writes
    if writes != NONE:
        walk.slots.fill(i, writes, operation)
        if not obligation.wanted:
            findings.fault("wrong-result", i, "nothing needs a result")
    elif obligation.wanted:
        findings.fault("wrong-result", i, "its result is needed, but is not kept")
    if obligation.alloc or obligation.free:
        walk.memory.run(i, obligation)


def receive(walk: RankWalk, i: int, one: Receive) -> None:
    """A receive is posted."""
    channel, result, ledger = one.channel, one.result, walk.ledger
    if not walk.usable(i, channel, False, result):
        return
    posted = ledger.posted[channel]
    message = len(posted) * ledger.channels + channel
    posted.append(result)
    ledger.posted_at[channel].append(i)
    walk.slots.fill(i, one.slot, result, message)
    walk.add(i, POSTED, message)


def send(walk: RankWalk, i: int, one: Send) -> None:
    """A send begins."""
    channel, ledger = one.channel, walk.ledger
    content = walk.slots.sendable(i, one.slot)
    if content is None:
        return
    result = content.operation
    if not walk.usable(i, channel, True, result):
        return
    content.used = True
    sent = ledger.sent[channel]
    message = len(sent) * ledger.channels + channel
    sent.append(result)
    ledger.sent_at[channel].append(i)
    content.begun += (message,)
    walk.add(i, SENT, message)


def wait(walk: RankWalk, i: int, one: Wait) -> None:
    """The rank waits until the messages begun on a slot are over."""
    content = walk.slots.held.get(one.slot)
    if content is None or not content.begun:
        walk.findings.fault("idle-wait", i, f"nothing was begun on slot {one.slot}")
        return
    for message in content.begun:
        walk.add(i, WAIT, message)
    content.begun = ()
    content.arriving = False


def free(walk: RankWalk, i: int, one: Free) -> None:
    """A slot is given back."""
    walk.slots.free(i, one.slot)


def reduce(walk: RankWalk, i: int, one: Reduce) -> None:
    """The gradients of the copies of a stage are summed."""
    number, fault = one.reduction, walk.findings.fault
    if not 0 <= number < len(walk.program.reductions):
        fault("wrong-sum", i, f"the plan has no sum number {number}")
        return
    copies = walk.program.reductions[number].copies
    if not walk.obligations.train:
        fault("wrong-sum", i, "an evaluation computes no gradients")
    elif number in walk.reduced:
        fault("wrong-sum", i, "this was summed before")
    elif walk.rank not in [copy.rank for copy in copies]:
        fault("wrong-sum", i, "this rank has none of the copies")
    for copy in copies:
        if copy.rank == walk.rank and walk.done.left.get(copy[:2], 0):
            missing = walk.done.left[copy[:2]]
            where = walk.findings.words.copies([copy])
            fault("wrong-sum", i, f"{missing} weight gradients of {where} come later")
    walk.reduced.add(number)
    walk.events.add(i, MEET, number)


def reduce_gradients(walk: RankWalk, i: int, one: BeginReduction) -> None:
    """The gradients of a stage are averaged with those of its replicas."""
    place = one.pipeline, one.stage
    walk.collectives.reduce(i, place, walk.done.left.get(place, 0), walk.reduced)


def unshard_weights(walk: RankWalk, i: int, one: BeginUnshard) -> None:
    """The weights of a stage are gathered."""
    walk.collectives.gather(i, (one.pipeline, one.stage))


def await_(walk: RankWalk, i: int, one: Await) -> None:
    """There is no other stream to wait for."""
    walk.findings.fault("wrong-stream", i, "the schedule has no streams")


EFFECTS: dict[type, Callable[[RankWalk, int, Any], None]] = {
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
