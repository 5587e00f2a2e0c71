"""The slots of one rank, followed through its list: a slot is written while empty, read while it
holds something, freed once, and none is left."""

from msgspec import Struct

from stretto.compiler.problem.spec import Operation
from stretto.compiler.proof.findings import RankFindings
from stretto.compiler.proof.messages import Location


class Content(Struct, gc=False):
    """What a slot holds, or will when it has arrived; where it was filled; whether it was used; the
    messages begun on it and not waited for."""

    operation: Operation
    at: int
    received: bool
    arriving: bool
    used: bool = False
    begun: tuple[int, ...] = ()


class Slots:
    """What the slots of a rank hold. Counted: the most slots at once that a receive filled, and
    that a computation did."""

    def __init__(self, findings: RankFindings):
        self.findings, self.words = findings, findings.words
        self.held: dict[int, Content] = {}
        self.receives = self.most_receives = self.outputs = self.most_outputs = 0

    def fill(self, i: int, slot: int, operation: Operation, message: int | None = None) -> None:
        """A computation writes to the slot, or the receive of this message is posted into it."""
        held = self.held
        if slot in held or slot < 0:
            self._unfit(i, slot)
        if message is not None:
            held[slot] = Content(operation, i, True, True, False, (message,))
            self.receives += 1
            if self.receives > self.most_receives:
                self.most_receives = self.receives
        else:
            held[slot] = Content(operation, i, False, False)
            self.outputs += 1
            if self.outputs > self.most_outputs:
                self.most_outputs = self.outputs

    def _unfit(self, i: int, slot: int) -> None:
        """The slot cannot be filled: it is not empty, or there is none."""
        held = self.held.get(slot)
        if held is None:
            self.findings.fault("empty-slot", i, f"there is no slot {slot}")
            return
        what = self.words.operation(held.operation)
        message = f"slot {slot} still has the result of {what}"
        self.findings.fault("slot-in-use", i, message, self._filled(slot, held))

    def sendable(self, i: int, slot: int) -> Content | None:
        """What is in the slot, if it can be sent."""
        content = self.held.get(slot)
        if content is None:
            self.findings.fault("empty-slot", i, f"slot {slot} holds nothing")
            return None
        if content.arriving:
            where = self.findings.here(content.at, "the receive was posted here")
            message = f"slot {slot} is sent before the wait for it"
            self.findings.fault("still-arriving", i, message, where)
            return None
        return content

    def read(self, i: int, slot: int) -> Content | None:
        """What is in the slot, if anything, for a computation that reads it."""
        content = self.held.get(slot)
        if content is None:
            self.findings.fault("empty-slot", i, f"it reads slot {slot}, which holds nothing")
            return None
        if content.arriving:
            where = self.findings.here(content.at, "the receive was posted here")
            message = f"it reads slot {slot} before the wait for it"
            self.findings.fault("still-arriving", i, message, where)
        content.used = True
        return content

    def wrong(self, i: int, slot: int, content: Content, wanted: Operation) -> None:
        """A computation that needs the result of the operation `wanted` has read another."""
        needed, held = self.words.operation(wanted), self.words.operation(content.operation)
        message = f"it needs the result of {needed}, but slot {slot} holds that of {held}"
        self.findings.fault("wrong-input", i, message, self._filled(slot, content))

    def free(self, i: int, slot: int) -> None:
        """The slot is given back."""
        content = self.held.pop(slot, None)
        if content is None:
            self.findings.fault("empty-slot", i, f"slot {slot} is already free")
            return
        if content.begun:
            way = "arriving" if content.arriving else "leaving"
            message = f"its message is still {way}: no wait came before"
            self.findings.fault("slot-in-use", i, message, self._filled(slot, content))
        elif not content.used:
            what = self.words.operation(content.operation)
            message = f"nothing used the result of {what} in it"
            self.findings.fault("unused-result", i, message, self._filled(slot, content))
        if content.received:
            self.receives -= 1
        else:
            self.outputs -= 1

    def _filled(self, slot: int, content: Content) -> tuple[Location, str]:
        """Where the slot was filled, as an explanation."""
        return self.findings.here(content.at, f"slot {slot} was filled here")

    def close(self) -> None:
        """After the last instruction all must be free."""
        for slot, content in self.held.items():
            what = self.words.operation(content.operation)
            message = f"slot {slot}, with the result of {what}, is never freed"
            self.findings.fault("slot-left", content.at, message)
