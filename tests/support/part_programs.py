"""Programs of parts by an emitter of their own, which shares nothing with the compiler's: for tests
of the proof that start from lists of operations. `needs` says what an operation must come after,
`emitted` lays messages, slots and awaits around the lists of all ranks."""

from collections.abc import Iterator, Sequence
from random import Random

from stretto.compiler.order import Order, RankOrder
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Operation, Spec
from stretto.compiler.program.program import (
    Await,
    Channel,
    Compute,
    Copy,
    Free,
    Instruction,
    Program,
    ProgramName,
    Receive,
    Reduce,
    Reduction,
    Send,
    Wait,
)

Item = tuple[float, int, Instruction]  # place in the list, stream


def operations(spec: Spec, name: ProgramName = "train") -> Iterator[Operation]:
    """All operations of the step, or of an evaluation."""
    for p, line in enumerate(spec.pipelines):
        trained = name == "train" and not line.forward_only
        for s in range(len(line.stages)):
            for m in range(line.microbatches):
                for x, part in enumerate(spec.parts[p][s]):
                    yield Operation("F", p, s, m, -1, x)
                    if trained and spec.split_backward:
                        yield Operation("I", p, s, m, -1, x)
                        if part.stream == 0:
                            yield Operation("W", p, s, m, -1, x)
                    elif trained:
                        yield Operation("B", p, s, m, -1, x)


def own_needs(spec: Spec, one: Operation) -> list[Operation]:
    """The operations of the same stage that it comes after."""
    last = len(spec.parts[one.pipeline][one.stage]) - 1
    if one.kind == "F":
        return [one._replace(part=one.part - 1)] if one.part else []
    if one.kind == "W":
        return [one._replace(kind="I")]
    if one.part == last:
        return [one._replace(kind="F")]
    return [one._replace(part=one.part + 1)]


def results(spec: Spec, one: Operation) -> list[Operation]:
    """The operations whose results it reads."""
    p, s, lines = one.pipeline, one.stage, spec.pipelines
    last = len(spec.parts[p][s]) - 1
    found = []
    if one.kind == "F" and one.part == 0:
        before = [(p, s - 1)] if s else []
        before += [(q, len(o.stages) - 1) for q, o in enumerate(lines) if (p, s) in o.feeds]
        for q, t in before:
            found.append(one._replace(pipeline=q, stage=t, part=len(spec.parts[q][t]) - 1))
    if one.kind in "BI" and one.part == last:
        behind = [(p, s + 1)] if s + 1 < len(lines[p].stages) else sorted(lines[p].feeds)
        for q, t in behind:
            if not lines[q].forward_only:
                found.append(one._replace(pipeline=q, stage=t, part=0))
    return found


def lists_at_random(
    spec: Spec, random: Random, name: ProgramName = "train"
) -> list[list[Operation]]:
    """For every rank its operations in a sequence in which all ranks can finish."""
    left = {one: {*own_needs(spec, one), *results(spec, one)} for one in operations(spec, name)}
    lists: list[list[Operation]] = [[] for _ in range(spec.ranks)]
    eager = random.random() < 0.5
    while left:
        ready = [one for one, needs in left.items() if not needs & left.keys()]
        late = [one for one in ready if one.kind != "F"]
        one = random.choice(late if eager and late else ready)
        del left[one]
        lists[spec.pipelines[one.pipeline].stages[one.stage].rank].append(one)
    return lists


def reissued(
    spec: Spec, lists: Sequence[Sequence[Operation]], random: Random
) -> list[list[Operation]]:
    """The lists with every stream's sequence as it is, and these put together anew, each operation
    behind what it needs of its rank. All streams can finish as before; one thread per rank, which
    takes the whole list, perhaps not."""
    found = []
    for own in lists:
        queues: dict[int, list[Operation]] = {}
        for one in own:
            queues.setdefault(_stream(spec, one), []).append(one)
        row: list[Operation] = []
        here, done = set(own), set[Operation]()
        while any(queues.values()):
            ready = [
                queue
                for queue in queues.values()
                if queue
                and not (here & {*own_needs(spec, queue[0]), *results(spec, queue[0])}) - done
            ]
            one = random.choice(ready).pop(0)
            row.append(one)
            done.add(one)
        found.append(row)
    return found


def _stream(spec: Spec, one: Operation) -> int:
    return spec.parts[one.pipeline][one.stage][one.part].stream


def emitted(
    spec: Spec,
    lists: Sequence[Sequence[Operation]],
    name: ProgramName = "train",
    *,
    random: Random | None = None,
    limits: bool = True,
) -> Program:
    """The Program that computes in these sequences. Without `random` every result has a slot of its
    own, receives are posted at the head of the list and sends waited for at its end; with it they
    stand anywhere, and slots are used again as soon as they were freed in the list, which may be
    too early. `limits`: whether memory is kept to limits under every timing, by awaits."""
    return _Emitter(spec, lists, name, random, limits).program()


class _Emitter:
    def __init__(
        self,
        spec: Spec,
        lists: Sequence[Sequence[Operation]],
        name: ProgramName,
        random: Random | None,
        limits: bool,
    ):
        self.spec, self.lists, self.random = spec, lists, random
        self.name: ProgramName = name
        self.limits = limits and bool(spec.limits)
        self.place = {one: (r, k) for r, own in enumerate(lists) for k, one in enumerate(own)}
        self.users: dict[Operation, list[Operation]] = {}
        for one in self.place:
            for result in results(spec, one):
                self.users.setdefault(result, []).append(one)
        self.channels: list[Channel] = []
        self.items: list[list[Item]] = [[] for _ in lists]
        self.names: list[dict[object, int]] = [{} for _ in lists]  # slots, by what they hold

    def stream(self, one: Operation) -> int:
        return _stream(self.spec, one)

    def slot(self, rank: int, holds: object) -> int:
        return self.names[rank].setdefault(holds, len(self.names[rank]))

    def program(self) -> Program:
        for rank, own in enumerate(self.lists):
            for k, one in enumerate(own):
                self.compute(rank, k, one)
        self.messages()
        sums = self.sums()
        rows = [self.with_awaits(rank, items) for rank, items in enumerate(self.items)]
        if self.random is not None:
            rows = [self.reused(row) for row in rows]
        return Program(
            self.spec,
            self.name,
            tuple(self.channels),
            sums,
            tuple(tuple(one for _, one in row) for row in rows),
            tuple(tuple(stream for stream, _ in row) for row in rows),
        )

    def compute(self, rank: int, k: int, one: Operation) -> None:
        stream, reads = self.stream(one), []
        for result in results(self.spec, one):
            near = self.place[result][0] == rank
            reads.append(self.slot(rank, result if near else (result, stream)))
        writes = self.slot(rank, one) if one in self.users else -1
        self.items[rank].append((k, stream, Compute(one, tuple(reads), writes, stream=stream)))

    def messages(self) -> None:
        """Sends, receives and their waits; frees of all slots."""
        queues: dict[Channel, list[tuple[Operation, int]]] = {}
        for result in sorted(self.users, key=self.place.__getitem__):
            rank, k = self.place[result]
            stream, users = self.stream(result), self.users[result]
            targets: dict[tuple[int, int], int] = {}
            for user in users:
                other, at = self.place[user]
                if other != rank:
                    key = other, self.stream(user)
                    targets[key] = min(targets.get(key, at), at)
            last = max((at for r, at in map(self.place.__getitem__, users) if r == rank), default=k)
            slot = self.slot(rank, result)
            for (other, there), first in targets.items():
                traffic = "activation" if result.kind == "F" else "gradient"
                channel = Channel(rank, other, traffic, stream, there)  # type: ignore[arg-type]
                if channel not in self.channels:
                    self.channels.append(channel)
                number = self.channels.index(channel)
                self.items[rank].append((k + self.soon(), stream, Send(slot, number)))
                queues.setdefault(channel, []).append((result, first))
                into = self.slot(other, (result, there))
                self.items[other].append((first - 0.3, there, Wait(into)))
                using = [self.place[u][1] for u in users if self.place[u][0] == other]
                mine = [at for at in using if self.stream(self.lists[other][at]) == there]
                self.items[other].append((max(mine) + 0.4, there, Free(into)))
            if targets:
                end = self.late(rank, k + 0.35)
                self.items[rank].append((end, stream, Wait(slot)))
                self.items[rank].append((max(last + 0.45, end + 1e-6), stream, Free(slot)))
            else:
                reader = self.stream(self.lists[rank][last])
                self.items[rank].append((last + 0.45, reader, Free(slot)))
        for channel, queue in queues.items():
            self.post(channel, queue)

    def soon(self) -> float:
        return 0.1 if self.random is None else 0.1 + 0.2 * self.random.random()

    def late(self, rank: int, start: float) -> float:
        end = len(self.lists[rank]) + 0.5
        if self.random is None:
            return end
        return start + (end - start) * self.random.random() ** 3

    def post(self, channel: Channel, queue: list[tuple[Operation, int]]) -> None:
        """Receives in the sequence in which they are sent, each before its first use."""
        by, posts = 1e9, []
        for k, (result, first) in enumerate(reversed(queue)):
            by = min(by, first - 0.5 - k * 1e-9)
            posts.append(
                (by if self.random is None else by - (by + 1) * self.random.random() ** 2, result)
            )
        if self.random is None:
            posts = [(-1 + n * 1e-6, result) for n, (_, result) in enumerate(reversed(posts))]
        places = sorted(at for at, _ in posts)
        ordered = [result for result, _ in queue]
        for at, result in zip(places, ordered, strict=True):
            slot = self.slot(channel.target, (result, channel.target_stream))
            one = Receive(slot, self.channels.index(channel), result)
            self.items[channel.target].append((at, channel.target_stream, one))

    def sums(self) -> tuple[Reduction, ...]:
        if self.name == "eval" or not any(line.replicates == 0 for line in self.spec.pipelines):
            return ()
        lines = self.spec.pipelines
        found = [
            Reduction(
                tuple(
                    sorted(
                        (Copy(p, s, line.stages[s].rank) for p, line in enumerate(lines)),
                        key=lambda copy: (copy.rank, copy.pipeline),
                    )
                )
            )
            for s in range(len(lines[0].stages))
        ]
        for number, reduction in enumerate(found):
            for rank in {copy.rank for copy in reduction.copies}:
                self.items[rank].append((1e6 + number, 0, Reduce(number)))
        return tuple(found)

    # ------------------------------------------------------------------ awaits

    def with_awaits(self, rank: int, items: list[Item]) -> list[tuple[int, Instruction]]:
        """The list, with an await wherever an instruction must come after an operation of another
        stream and does not yet."""
        many = len(self.spec.streams)
        heard = [[-1] * many for _ in range(many)]
        ended: dict[Operation, tuple[int, list[int]]] = {}
        row: list[tuple[int, Instruction]] = []
        readers: dict[int, list[Operation]] = {}
        for _, stream, one in sorted(items, key=lambda item: item[0]):
            for other in self.wanted(rank, one, readers, ended):
                there = self.stream(other)
                place, known = ended[other]
                if there != stream and heard[stream][there] < place:
                    heard[stream] = [*map(max, heard[stream], known)]
                    row.append((stream, Await(other)))
            if isinstance(one, Compute):
                own = heard[stream][:]
                own[stream] = len(row)
                heard[stream] = own
                ended[one.operation] = len(row), own[:]
                for slot in (*one.reads, one.writes):
                    readers.setdefault(slot, []).append(one.operation)
            row.append((stream, one))
        return row

    def wanted(
        self,
        rank: int,
        one: Instruction,
        readers: dict[int, list[Operation]],
        ended: dict[Operation, tuple[int, list[int]]],
    ) -> list[Operation]:
        """What of the rank an instruction comes after."""
        if isinstance(one, Compute):
            near = [r for r in results(self.spec, one.operation) if self.place[r][0] == rank]
            return [
                *own_needs(self.spec, one.operation),
                *near,
                *self.frees(rank, one.operation, ended),
            ]
        if isinstance(one, Free):
            return readers[one.slot]
        if isinstance(one, Send):
            return readers[one.slot][:1]
        if isinstance(one, Reduce):
            return [o for o in ended if o.kind != "F"]
        return []

    def frees(
        self, rank: int, one: Operation, ended: dict[Operation, tuple[int, list[int]]]
    ) -> list[Operation]:
        """Where memory is limited, everything of the rank that stands before a forward's first part
        in the list and frees something."""
        if not self.limits or one.kind != "F":
            return []
        return [other for other in ended if other.kind != "F" or self.name == "eval"]

    def reused(self, row: list[tuple[int, Instruction]]) -> list[tuple[int, Instruction]]:
        """The list with as few slots as there are contents at once in its sequence."""
        assert self.random is not None
        free: list[int] = []
        now: dict[int, int] = {}
        found = []
        many = 0
        for stream, one in row:
            filled = -1
            if isinstance(one, Receive):
                filled = one.slot
            elif isinstance(one, Compute):
                filled = one.writes
            if filled >= 0:
                if free and self.random.random() < 0.8:
                    now[filled] = free.pop(self.random.randrange(len(free)))
                else:
                    now[filled] = many
                    many += 1
            found.append((stream, _renamed(one, now)))
            if isinstance(one, Free):
                free.append(now[one.slot])
        return found


def _renamed(one: Instruction, slots: dict[int, int]) -> Instruction:
    if isinstance(one, Compute):
        reads = tuple(slots[slot] for slot in one.reads)
        writes = slots[one.writes] if one.writes >= 0 else -1
        return Compute(one.operation, reads, writes, one.unit, one.stream, one.at)
    if isinstance(one, Receive):
        return Receive(slots[one.slot], one.channel, one.result)
    if isinstance(one, Send):
        return Send(slots[one.slot], one.channel)
    if isinstance(one, Wait):
        return Wait(slots[one.slot])
    if isinstance(one, Free):
        return Free(slots[one.slot])
    return one


def as_order(spec: Spec, lists: Sequence[Sequence[Operation]]) -> Order:
    """The lists as an Order of the compiler's."""
    problem = expand(spec)
    number = {operation: k for k, operation in enumerate(problem.operations)}
    rows = [tuple(number[one] for one in own) for own in lists]
    lanes = [
        RankOrder(rank, stream, tuple((k,) for k in row if problem.stream[k] == stream))
        for rank, row in enumerate(rows)
        for stream in range(len(spec.streams))
    ]
    return Order(problem, tuple(lanes), "at random", lists=tuple(rows))
