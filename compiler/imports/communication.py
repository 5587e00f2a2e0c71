"""ImportedTable → what is wrong with its messages and with what is done once for a stage.

PyTorch sends all messages of a pair of ranks in one sequence, forwards and backwards together, and
without a name: the n-th that rank a sends to rank b meets the n-th receive that b posts for a.
Where shapes are alike, a wrong one is taken without a word. `program` makes a Program of a table in
which nothing is wrong, for the proof.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

from stretto.compiler.diagnostics.diagnostic import Diagnostic
from stretto.compiler.diagnostics.wording import count
from stretto.compiler.imports.computations import KnownActions, key
from stretto.compiler.imports.sizes import TableShape
from stretto.compiler.imports.table import COMPUTATIONS, MESSAGES, ImportedTable, TableAction

TableMessage = tuple[str, int, int]
"""A result that another rank needs: `F` or `B`, the stage that made it, and the micro-batch."""


class Way(NamedTuple):
    """How a message word names its result: of which kind it is, on which stage it was made seen
    from the stage in the cell, and whether this is the sending side."""

    kind: str
    made: int
    sends: bool


WAYS = {
    "SEND_F": Way("F", 0, True),
    "RECV_F": Way("F", -1, False),
    "SEND_B": Way("B", 0, True),
    "RECV_B": Way("B", 1, False),
}


def result(one: TableAction) -> TableMessage:
    """What the message brings."""
    way = WAYS[one.word]
    return way.kind, one.stage + way.made, one.microbatch


def ends(message: TableMessage, place: Sequence[int]) -> tuple[int, int] | None:
    """The ranks that send and receive it; None where no stage needs it."""
    kind, made, _ = message
    used = made + 1 if kind == "F" else made - 1
    if not (0 <= made < len(place) and 0 <= used < len(place)):
        return None
    return place[made], place[used]


def wrong_messages(
    table: ImportedTable, shape: TableShape, first: KnownActions
) -> Iterator[Diagnostic]:
    """All that is wrong with messages, `REDUCE_GRAD`, `UNSHARD` and `RESHARD`; `first` has the
    table's computations by name."""
    words = [one for row in table.rows for one in row if one.word not in COMPUTATIONS]
    if len(table.rows) > 1 and not any(one.word in MESSAGES for one in words):
        what = f"`{words[0].stage}{words[0].word}` stands in a table without messages"
        why = "`compute_only` has computations alone, `compute_comms` every message too"
        yield Diagnostic("unknown-cell", what, (table.label(words[0]),), (why,))
        return
    found = _Messages(table, shape, first)
    for rank, row in enumerate(table.rows):
        for one in row:
            if one.word in MESSAGES:
                yield from found.look(rank, one)
    yield from found.missing()
    yield from found.crossed()
    yield from _reduced(table, shape)
    yield from _gathered(table)


class _Messages:
    """The messages of a table: `sent` and `received` have the first action of each, `order` for
    each directed pair of ranks both sequences."""

    def __init__(self, table: ImportedTable, shape: TableShape, first: KnownActions):
        self.table, self.place, self.first = table, shape.place[0], first
        self.many = shape.microbatches[0]
        self.sent: dict[TableMessage, TableAction] = {}
        self.received: dict[TableMessage, TableAction] = {}
        self.order: dict[tuple[int, int], tuple[list[TableAction], list[TableAction]]] = {}

    def look(self, rank: int, one: TableAction) -> Iterator[Diagnostic]:
        """One message where it stands."""
        sends, message = WAYS[one.word].sends, result(one)
        pair = ends(message, self.place)
        known = self.sent if sends else self.received
        if one.microbatch >= self.many:
            yield self.fault(
                "no-such-operation", one, f"there are micro-batches 0 to {self.many - 1}"
            )
        elif pair is None:
            yield self.fault("unmatched-message", one, "no stage is there to exchange it with")
        elif pair[0] == pair[1]:
            why = f"both stages are on rank {rank}, which hands it on by itself"
            yield self.fault("unmatched-message", one, why)
        elif rank != pair[0 if sends else 1]:
            home = pair[0 if sends else 1]
            why = f"it stands in the row of rank {rank}, and belongs to rank {home}"
            yield self.fault("wrong-rank", one, why)
        elif message in known:
            verb = "sent" if sends else "received"
            yield self.fault(
                "unmatched-message", one, f"it is {verb} a second time", known[message]
            )
        else:
            known[message] = one
            self.order.setdefault(pair, ([], []))[0 if sends else 1].append(one)
            yield from self.timely(one)

    def timely(self, one: TableAction) -> Iterator[Diagnostic]:
        """A send behind its computation, a receive before its."""
        sends = WAYS[one.word].sends
        kinds = ("F",) if one.word.endswith("F") else ("B", "I")
        for kind in kinds:
            other = self.first.get(key(one, kind))
            if other is None or other.line != one.line:
                continue
            if sends and other.column > one.column:
                yield self.fault("too-early", one, f"`{self.name(other)}` makes it later", other)
            if not sends and other.column < one.column:
                what = f"`{self.name(other)}` runs before its input is received"
                labels = (self.table.label(other), self.table.label(one, "received only here"))
                yield Diagnostic("too-early", what, labels)

    def missing(self) -> Iterator[Diagnostic]:
        """Results that a rank needs from another and that are not sent, or not received."""
        for word in MESSAGES:
            way = WAYS[word]
            known = self.sent if way.sends else self.received
            for made in range(len(self.place)):
                pair = ends((way.kind, made, 0), self.place)
                if pair is None or pair[0] == pair[1]:
                    continue
                wanted = [(way.kind, made, m) for m in range(self.many)]
                left = [message for message in wanted if message not in known]
                if left:
                    yield self.absent(word, made, left, pair)

    def absent(
        self, word: str, made: int, left: list[TableMessage], pair: tuple[int, int]
    ) -> Diagnostic:
        """Several messages of one stage that have one side only, or none."""
        way = WAYS[word]
        rank, peer = pair if way.sends else pair[::-1]
        one = TableAction(word, made - way.made, left[0][2], 0, 0, 0, 0)
        more = f", nor {count(len(left) - 1, 'other micro-batch', 'other micro-batches')}"
        what = f"rank {rank} has no `{self.name(one)}`{more if left[1:] else ''}"
        other = (self.received if way.sends else self.sent).get(left[0])
        labels = [self.table.row_end(rank, f"it is missing in the row of rank {rank}")]
        if other is not None:
            verb = "waits for it" if way.sends else "sends it"
            labels.insert(0, self.table.label(other, f"rank {peer} {verb} here"))
        return Diagnostic("unmatched-message", what, tuple(labels))

    def crossed(self) -> Iterator[Diagnostic]:
        """Receives that would take another's message: of each pair of ranks the first."""
        for (a, b), (sent, posted) in self.order.items():
            both = [one for one in sent if result(one) in self.received]
            due = [one for one in posted if result(one) in self.sent]
            for n, (send, receive) in enumerate(zip_longest(both, due)):
                if send is None or receive is None or result(send) == result(receive):
                    continue
                what = (
                    f"`{self.name(receive)}` takes what `{self.name(send)}` sends: it is the "
                    f"{_nth(n)} message from rank {a} to rank {b}"
                )
                labels = (self.table.label(receive), self.table.label(send, "sent here"))
                why = "messages between two ranks have no names: they meet in sequence"
                yield Diagnostic("wrong-message", what, labels, (why,))
                break

    def fault(
        self, code: str, one: TableAction, why: str, other: TableAction | None = None
    ) -> Diagnostic:
        labels = [self.table.label(one)]
        if other is not None:
            labels.append(self.table.label(other, "here"))
        return Diagnostic(code, f"`{self.name(one)}`: {why}", tuple(labels))

    def name(self, one: TableAction) -> str:
        return self.table.name(one)


def _nth(n: int) -> str:
    words = ("first", "second", "third")
    return words[n] if n < len(words) else f"{n + 1}th"


# ---------------------------------------------------------------------------- once for a stage


def _reduced(table: ImportedTable, shape: TableShape) -> Iterator[Diagnostic]:
    """Every stage has one `REDUCE_GRAD`, behind its last backward: it divides by the number of
    micro-batches, and averages over data-parallel replicas."""
    reduced: defaultdict[tuple[int, int], list[TableAction]] = defaultdict(list)
    added: dict[tuple[int, int], TableAction] = {}
    for rank, row in enumerate(table.rows):
        for one in row:
            if one.word == "REDUCE_GRAD":
                reduced[rank, one.stage].append(one)
            elif one.word in ("B", "W"):
                added[rank, one.stage] = one
    for s, rank in enumerate(shape.place[0]):
        found, last = reduced.get((rank, s), []), added.get((rank, s))
        if not found:
            what = (
                f"rank {rank} has no `{s}REDUCE_GRAD`: PyTorch would leave the gradients of stage "
                f"{s} as their sum, {shape.microbatches[0]} times too large"
            )
            yield Diagnostic("wrong-collective", what, (table.row_end(rank, "its row ends here"),))
        for again in found[1:]:
            what = f"`{s}REDUCE_GRAD` stands twice: PyTorch would divide the gradients twice"
            labels = (table.label(again), table.label(found[0], "first here"))
            yield Diagnostic("wrong-collective", what, labels)
        if found and last and found[0].column < last.column:
            what = f"`{s}REDUCE_GRAD` comes before `{table.name(last)}`, which adds to them"
            labels = (table.label(found[0]), table.label(last, "it runs later"))
            yield Diagnostic("wrong-collective", what, labels)
    for (rank, s), sums in reduced.items():
        if s >= len(shape.place[0]) or shape.place[0][s] != rank:
            what = f"`{s}REDUCE_GRAD`: stage {s} is not on rank {rank}"
            for one in sums:
                yield Diagnostic("wrong-collective", what, (table.label(one),))


def _gathered(table: ImportedTable) -> Iterator[Diagnostic]:
    """Where weights are gathered, they are whenever a stage computes, and never twice."""
    anywhere = any(one.word == "UNSHARD" for row in table.rows for one in row)
    for row in table.rows:
        last = {one.stage: one for one in row if one.word == "UNSHARD"}
        there: dict[int, TableAction] = {}
        used: set[int] = set()
        told: set[int] = set()
        for one in row:
            s = one.stage
            if one.word == "UNSHARD":
                if s in there:
                    yield _gather(table, one, "it is gathered already", there[s])
                there[s] = one
                used.discard(s)
            elif one.word == "RESHARD":
                if s not in there:
                    yield _gather(table, one, "it is not gathered")
                elif s not in used:
                    yield _gather(table, one, "nothing used it since it was gathered", there[s])
                there.pop(s, None)
            elif one.word in COMPUTATIONS and anywhere and s not in told:
                used.add(s)
                if s not in there:
                    told.add(s)
                    yield _late(table, one, last.get(s))
        for s, one in there.items():
            if s not in used:
                yield _gather(table, one, "nothing of it is computed afterwards")


def _late(table: ImportedTable, one: TableAction, last: TableAction | None) -> Diagnostic:
    """A computation of a stage whose weights are not there; they are gathered for the last time
    at `last`."""
    labels = [table.label(one)]
    why = f"no `{one.stage}UNSHARD` is before it"
    if last is not None and last.column > one.column:
        why = f"`{one.stage}UNSHARD` comes too late"
        labels.append(table.label(last, "only here"))
    what = f"`{table.name(one)}` runs while the weights of stage {one.stage} are not gathered"
    return Diagnostic("wrong-collective", f"{what}: {why}", tuple(labels))


def _gather(
    table: ImportedTable, one: TableAction, why: str, other: TableAction | None = None
) -> Diagnostic:
    labels = [table.label(one)]
    if other is not None:
        labels.append(table.label(other, "gathered here"))
    return Diagnostic("wrong-collective", f"`{one.stage}{one.word}`: {why}", tuple(labels))
