"""A Program with streams, run once under some timing: every (rank, stream) is a process, and which
of those that can go on does so next is up to whoever draws. Every computation begins and ends by
itself, messages arrive when they like. Shares nothing with the clock and the proof. What a run must
never do raises `AssertionError`."""

from collections import defaultdict
from random import Random

from stretto.compiler.problem.problem import EdgeKind, Problem
from stretto.compiler.problem.spec import NONE, Operation
from stretto.compiler.program.program import (
    Await,
    BeginReduction,
    BeginUnshard,
    Compute,
    Free,
    Instruction,
    Program,
    Receive,
    Reduce,
    Send,
    Wait,
)

Process = tuple[int, int]


class Run:
    """One run. `problem` says what every computation needs and takes. `peaks` are the most grains
    that each rank held."""

    def __init__(self, program: Program, problem: Problem, rng: Random):
        self.program, self.problem, self.rng = program, problem, rng
        self.rows: dict[Process, list[Instruction]] = defaultdict(list)
        for rank, row in enumerate(program.ranks):
            for one, stream in zip(row, program.streams[rank], strict=True):
                self.rows[rank, stream].append(one)
        self.at = dict.fromkeys(self.rows, 0)
        self.running: dict[Process, Compute] = {}
        self.ended: set[int] = set()
        self.index = {one: i for i, one in enumerate(problem.operations)}
        there = {
            self.index[one.operation]
            for row in program.ranks
            for one in row
            if isinstance(one, Compute)
        }
        self.needs: dict[int, list[int]] = defaultdict(list)
        self.wanted: dict[int, set[Operation]] = defaultdict(set)
        for a, b, why in zip(problem.tail, problem.head, problem.why, strict=True):
            if a in there:
                self.needs[b].append(a)
                if why in (EdgeKind.ACTIVATION, EdgeKind.GRADIENT):
                    self.wanted[b].add(problem.operations[a])
        self.slots: dict[tuple[int, int], Operation] = {}
        self.arriving: set[tuple[int, int]] = set()
        self.leaving: dict[tuple[int, int], int] = defaultdict(int)
        self.reading: dict[tuple[int, int], int] = defaultdict(int)
        self.sent: list[list[tuple[int, int]]] = [[] for _ in program.channels]
        self.posted: list[list[tuple[int, int]]] = [[] for _ in program.channels]
        self.met: dict[int, set[int]] = defaultdict(set)
        self.held = [0] * len(program.ranks)
        self.peaks = [0] * len(program.ranks)
        self.taken: dict[int, list[int]] = defaultdict(list)
        self.left = [set(holding.freed_by) for holding in problem.holdings]
        self.freed: dict[int, list[int]] = defaultdict(list)
        for k, holding in enumerate(problem.holdings):
            self.taken[holding.taken_by].append(k)
            for i in holding.freed_by:
                self.freed[i].append(k)

    def run(self) -> list[int]:
        """Until all has ended. Returns the peaks. Some processes are far faster than others."""
        speed = {process: self.rng.random() ** 4 for process in self.rows}
        while True:
            steps = [process for process in self.rows if self._can(process)]
            deliveries = [c for c, queue in enumerate(self.sent) if queue and self.posted[c]]
            if not steps and not deliveries:
                break
            if deliveries and (not steps or self.rng.random() < 0.3):
                self._deliver(self.rng.choice(deliveries))
                continue
            self._step(self.rng.choices(steps, [speed[one] + 1e-6 for one in steps])[0])
        waiting = [one for one in self.rows if self.at[one] < len(self.rows[one])]
        assert not waiting, f"{waiting} wait for ever"
        assert not self.slots, "a slot is left"
        assert not any(self.sent) and not any(self.posted), "a message is left"
        return self.peaks

    def _can(self, process: Process) -> bool:
        """Whether the process can do something."""
        if process in self.running:
            return True
        if self.at[process] == len(self.rows[process]):
            return False
        one, rank = self.rows[process][self.at[process]], process[0]
        if isinstance(one, Wait):
            place = rank, one.slot
            return place not in self.arriving and not self.leaving[place]
        if isinstance(one, Await):
            return self.index[one.operation] in self.ended
        if isinstance(one, Reduce):
            self.met[one.reduction].add(rank)
            copies = self.program.reductions[one.reduction].copies
            return self.met[one.reduction] == {copy.rank for copy in copies}
        return True

    def _deliver(self, channel: int) -> None:
        source, target = self.sent[channel].pop(0), self.posted[channel].pop(0)
        assert self.slots[source] == self.slots[target], "another result arrives"
        self.leaving[source] -= 1
        self.arriving.remove(target)

    def _step(self, process: Process) -> None:
        rank, stream = process
        if process in self.running:
            self._end(rank, self.running.pop(process))
            return
        one = self.rows[process][self.at[process]]
        self.at[process] += 1
        match one:
            case Compute():
                assert one.stream == stream
                self._begin(rank, one)
                self.running[process] = one
            case Receive(slot, channel, result):
                self._fill(rank, slot, result)
                self.arriving.add((rank, slot))
                self.posted[channel].append((rank, slot))
                where = self.program.channels[channel]
                assert (where.target, where.target_stream) == process
            case Send(slot, channel):
                assert (rank, slot) in self.slots and (rank, slot) not in self.arriving
                self.leaving[rank, slot] += 1
                self.sent[channel].append((rank, slot))
                where = self.program.channels[channel]
                assert (where.source, where.source_stream) == process
            case Free(slot):
                place = rank, slot
                assert not self.reading[place], "freed while it is read"
                assert place not in self.arriving and not self.leaving[place]
                del self.slots[place]
            case Reduce(number):
                for p, s, where_ in self.program.reductions[number].copies:
                    if where_ == rank:
                        self._settled(p, s)
            case BeginReduction(p, s):
                self._settled(p, s)
            case BeginUnshard() | Wait() | Await():
                pass

    def _settled(self, p: int, s: int) -> None:
        """All gradients of the stage are there."""
        for i, one in enumerate(self.problem.operations):
            if (one.pipeline, one.stage) == (p, s) and one.kind != "F":
                assert i in self.ended, "summed too early"

    def _fill(self, rank: int, slot: int, result: Operation) -> None:
        assert (rank, slot) not in self.slots, "filled while it holds another result"
        self.slots[rank, slot] = result

    def _begin(self, rank: int, one: Compute) -> None:
        i = self.index[one.operation]
        for need in self.needs[i]:
            if self.problem.rank[need] == rank:
                assert need in self.ended, f"{one.operation} runs before what it needs"
        for slot in one.reads:
            self.reading[rank, slot] += 1
        read = {self.slots[rank, slot] for slot in one.reads}
        assert not any((rank, slot) in self.arriving for slot in one.reads)
        assert read == self.wanted[i], "it reads something else"
        if one.writes != NONE:
            self._fill(rank, one.writes, one.operation)
        for k in self.taken[i]:
            self.held[rank] += self.problem.holdings[k].grains
        self.peaks[rank] = max(self.peaks[rank], self.held[rank])

    def _end(self, rank: int, one: Compute) -> None:
        i = self.index[one.operation]
        self.ended.add(i)
        for slot in one.reads:
            self.reading[rank, slot] -= 1
        for k in self.freed[i]:
            self.left[k].discard(i)
            if not self.left[k]:
                self.held[rank] -= self.problem.holdings[k].grains
