"""What comes before what on one rank that has several streams, whatever their relative speed:
`StreamOrder`, and with it the life of slots, `SlotOrder`.

One instruction comes before another of its rank if stream order and `await`s lead from the one to
the other. Nothing else counts: neither the clock, nor the sequence of the list, nor what messages
through other ranks imply. An `await` stands behind what it names in the list, so one pass over the
list knows, for each stream, up to which instruction of every other stream all has ended.
"""

from stretto.compiler.proof.findings import RankFindings

NOTHING = -1


class StreamOrder:
    """Of each stream the last instruction of every stream that comes before what follows on it;
    places are those of the rank's list. `awaited`: the same for the ends of operations that
    somebody awaits, by their number."""

    def __init__(self, streams: int):
        self.heard = [[NOTHING] * streams for _ in range(streams)]
        self.awaited: dict[int, list[int]] = {}

    def before(self, place: int, stream: int, other: int) -> bool:
        """Whether the instruction at `place` on `stream`, which stands earlier in the list, comes
        before what follows on the stream `other`."""
        return stream == other or self.heard[other][stream] >= place

    def end(self, number: int, place: int, stream: int) -> None:
        """The operation of this number, which is awaited, stands here."""
        known = self.heard[stream][:]
        known[stream] = place
        self.awaited[number] = known

    def hear(self, number: int, stream: int) -> None:
        """What follows on the stream comes after the end of the operation."""
        self.heard[stream] = [*map(max, self.heard[stream], self.awaited[number])]


class SlotUse:
    """What was done with a slot since it was filled: when it could be read, and the last use of it,
    by stream; where it was given back, and there on which stream."""

    __slots__ = ("freed", "freed_on", "ready", "used")

    def __init__(self) -> None:
        self.ready: tuple[int, int] | None = None
        self.used: dict[int, int] = {}
        self.freed = self.freed_on = NOTHING


class SlotOrder:
    """The slots of a rank under every timing: filled only after the last `free`, read and sent only
    when filled, freed only after all of that. That they are used rightly in the list's sequence is
    for `slots` to see."""

    def __init__(self, order: StreamOrder, streams: tuple[str, ...], findings: RankFindings):
        self.order, self.streams, self.findings = order, streams, findings
        self.slots: dict[int, SlotUse] = {}

    def fill(self, i: int, slot: int, stream: int, *, ready: bool) -> None:
        """An instruction fills the slot, or posts what will."""
        before = self.slots.get(slot)
        if before is not None and before.freed != NOTHING:
            self._after(i, stream, before.freed, before.freed_on, f"slot {slot} is freed there")
        use = self.slots[slot] = SlotUse()
        use.used[stream] = i
        if ready:
            use.ready = i, stream

    def arrive(self, i: int, slot: int, stream: int) -> None:
        """A wait for what was begun on the slot."""
        use = self.slots.get(slot)
        if use is not None:
            use.used[stream] = i
            if use.ready is None:
                use.ready = i, stream

    def use(self, i: int, slot: int, stream: int) -> None:
        """An instruction reads the slot or begins to send it."""
        use = self.slots.get(slot)
        if use is not None:
            if use.ready is not None:
                self._after(i, stream, *use.ready, f"slot {slot} has its result from there on")
            use.used[stream] = i

    def free(self, i: int, slot: int, stream: int) -> None:
        """The slot is given back."""
        use = self.slots.get(slot)
        if use is not None:
            for other, place in use.used.items():
                self._after(i, stream, place, other, f"slot {slot} is in use there")
            use.freed, use.freed_on = i, stream

    def _after(self, i: int, stream: int, place: int, other: int, why: str) -> None:
        """The instruction at i must come after another."""
        if not self.order.before(place, other, stream):
            text = f"nothing on `{self.streams[stream]}` waits for `{self.streams[other]}`"
            where = self.findings.here(place, why)
            self.findings.fault("unordered-streams", i, text, where)
