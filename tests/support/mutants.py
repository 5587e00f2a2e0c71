"""Ways to break a Program on purpose, one instruction at a time, and the test whether a broken
Program still does the same."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any, TypeVar

from msgspec.structs import replace

from stretto.compiler.problem.spec import NONE, Operation
from stretto.compiler.program.program import (
    Await,
    BeginReduction,
    BeginUnshard,
    Compute,
    Instruction,
    Program,
    Receive,
    Reduce,
    Send,
)
from tests.support.explorer import CAPACITIES, FINISH, TooLarge, alone, choosers, explore, follow
from tests.support.planned_streams import PlannedStreams, sequences, sums_of
from tests.support.stream_explorer import explore_streams, follow_streams

T = TypeVar("T")


def edited(
    program: Program, rank: int, instructions: list[Instruction], streams: list[int] | None = None
) -> Program:
    """The Program with another list of one rank; `streams`: those of its instructions, where it has
    any."""
    lists = list(program.ranks)
    lists[rank] = tuple(instructions)
    rows = list(program.streams)
    if streams is not None and rows:
        rows[rank] = tuple(streams)
    return replace(program, ranks=tuple(lists), streams=tuple(rows))


@dataclass(frozen=True)
class Mutant:
    """A broken Program and how it was broken."""

    kind: str
    program: Program
    where: str

    def __str__(self) -> str:
        return f"{self.kind} at {self.where}"


def mutants(program: Program, rank: int, i: int) -> Iterator[Mutant]:
    """Every way in which the instruction can be dropped, doubled, exchanged with the next, moved
    to another rank, or made to name something else."""
    own = list(program.ranks[rank])
    on = list(program.streams[rank]) if program.streams else []
    one = own[i]
    name = type(one).__name__.lower()
    where = f"rank {rank}, instruction {i}"

    def mutant(kind: str, instructions: list[Instruction], streams: list[int]) -> Mutant:
        return Mutant(f"{kind} {name}", edited(program, rank, instructions, streams), where)

    yield mutant("drop", own[:i] + own[i + 1 :], on[:i] + on[i + 1 :])
    yield mutant("double", [*own[: i + 1], *own[i:]], [*on[: i + 1], *on[i:]])
    if i + 1 < len(own):
        after = type(own[i + 1]).__name__.lower()
        yield Mutant(
            f"swap {name} with {after}",
            edited(
                program,
                rank,
                [*own[:i], own[i + 1], one, *own[i + 2 :]],
                [*on[:i], *on[i + 1 : i + 2], *on[i : i + 1], *on[i + 2 :]],
            ),
            where,
        )
    for other in range(len(program.ranks)):
        if other != rank:
            moved = edited(program, rank, own[:i] + own[i + 1 :], on[:i] + on[i + 1 :])
            there, these = list(program.ranks[other]), list(program.streams[other]) if on else []
            at = min(i, len(there))
            there.insert(at, one)
            these[at:at] = on[i : i + 1]
            yield Mutant(f"move {name} to another rank", edited(moved, other, there, these), where)
    for what, changed in retargeted(program, rank, one):
        yield mutant(f"another {what} in", [*own[:i], changed, *own[i + 1 :]], on)
    for stream in range(len(program.spec.streams)):
        if on and stream != on[i]:
            yield mutant("another stream of", own, [*on[:i], stream, *on[i + 1 :]])
    if isinstance(one, Await):
        for to in {max(i - 4, 0), i - 2, i + 2, min(i + 4, len(own) - 1)} - {i}:
            if 0 <= to < len(own):
                yield mutant("move", _moved(own, i, to), _moved(on, i, to))


def _moved(row: list[Any], i: int, to: int) -> list[Any]:
    """The row with what stands at i standing at `to`."""
    rest = row[:i] + row[i + 1 :]
    return [*rest[:to], row[i], *rest[to:]]


def retargeted(program: Program, rank: int, one: Instruction) -> Iterator[tuple[str, Instruction]]:
    """The instruction with another slot, channel, operation, unit or sum: every slot and channel
    of the Program that could stand there, and the operation's neighbours."""
    slots = range(1 + max((slot for i in program.ranks[rank] for slot in _slots(i)), default=0))
    if isinstance(one, Compute):
        for operation in other_operations(program, one.operation):
            yield "operation", replace(one, operation=operation)
        for k, old in enumerate(one.reads):
            for slot in slots:
                if slot != old:
                    changed = (*one.reads[:k], slot, *one.reads[k + 1 :])
                    yield "slot", replace(one, reads=changed)
            yield "number of reads", replace(one, reads=one.reads[:k] + one.reads[k + 1 :])
        for slot in (NONE, *slots):
            if slot != one.writes:
                yield "slot", replace(one, writes=slot)
        for unit in {NONE, 0, 1} - {one.unit}:
            yield "unit", replace(one, unit=unit)
        yield "stream", replace(one, stream=1)
    elif isinstance(one, Reduce):
        for number in range(len(program.reductions) + 1):
            if number != one.reduction:
                yield "sum", replace(one, reduction=number)
    elif isinstance(one, BeginReduction | BeginUnshard):
        for stage in range(one.stage + 2):
            if stage != one.stage:
                yield "stage", replace(one, stage=stage)
    elif isinstance(one, Await):
        for operation in other_operations(program, one.operation):
            yield "operation", replace(one, operation=operation)
    else:
        for slot in slots:
            if slot != one.slot:
                yield "slot", replace(one, slot=slot)
        if isinstance(one, Send | Receive):
            for channel in range(len(program.channels) + 1):
                if channel != one.channel:
                    yield "channel", replace(one, channel=channel)
        if isinstance(one, Receive):
            for operation in other_operations(program, one.result):
                yield "result", replace(one, result=operation)


def other_operations(program: Program, operation: Operation) -> Iterator[Operation]:
    for kind in "FBIW":
        if kind != operation.kind:
            yield operation._replace(kind=kind)
    for step in (-1, 1):
        for key in ("pipeline", "stage", "microbatch"):
            value = getattr(operation, key) + step
            if value >= 0:
                yield operation._replace(**{key: value})
    if program.spec.parts:
        for part in (NONE, operation.part - 1, operation.part + 1):
            if part >= NONE and part != operation.part:
                yield operation._replace(part=part)
    slices = program.spec.slices
    for k in (NONE, operation.slice - 1, operation.slice + 1):
        if slices and k != operation.slice:
            yield operation._replace(slice=k)


def _slots(one: Instruction) -> tuple[int, ...]:
    if isinstance(one, Compute):
        return (*one.reads, one.writes)
    several = Reduce | BeginReduction | BeginUnshard | Await
    return () if isinstance(one, several) else (one.slot,)  # pyright: ignore[reportAttributeAccessIssue]


def random_mutant(program: Program, random: Random) -> Mutant:
    """One of the mutants of a random instruction: half the time it is exchanged with the next,
    which most often leaves a Program that is good or cannot finish."""
    ranks = [rank for rank, own in enumerate(program.ranks) if own]
    rank = random.choice(ranks)
    kinds: dict[str, list[Mutant]] = {}
    for mutant in mutants(program, rank, random.randrange(len(program.ranks[rank]))):
        kinds.setdefault(mutant.kind, []).append(mutant)
    swaps = [kind for kind in kinds if kind.startswith("swap")]
    if swaps and random.random() < 0.5:
        return kinds[swaps[0]][0]
    return random.choice(random.choice(list(kinds.values())))


def harmless(good: Program, other: Program, most: int = 200_000) -> str:
    """Nothing ("") if every interleaving of `other` finishes and does what `good` does, with the
    same peaks and slots; else what differs. The oracle here is the explorer alone."""
    if good.streams:
        return harmless_streams(good, other, most)
    old, new = alone(good), alone(other)
    for key in ("flow", "sums", "activations", "receives", "outputs", "wrong"):
        if getattr(old, key) != getattr(new, key):
            return f"{key}: {getattr(old, key)} became {getattr(new, key)}"
    written = good.spec.order if good.name == "train" else ()
    for rank, digest in enumerate(written):
        if digest and old.order[rank] != new.order[rank]:
            return f"rank {rank} runs in another order"
    return finishes(other, most)


def harmless_streams(good: Program, other: Program, most: int = 20_000) -> str:
    """Likewise where ranks have streams, by themselves or with one thread for all of them."""
    if sums_of(good) != sums_of(other):
        return "other sums"
    for rank, digest in enumerate(good.spec.order if good.name == "train" else ()):
        if digest and sequences(good, rank) != sequences(other, rank):
            return f"rank {rank} runs in another order"
    old, new = PlannedStreams(good), PlannedStreams(other)
    if old.figures() != new.figures():
        return f"{old.figures()} became {new.figures()}"
    for together in (False, True):
        for capacity in CAPACITIES:
            try:
                outcomes = explore_streams(other, capacity, together=together, most=most)
            except TooLarge:
                outcomes = {
                    follow_streams(other, capacity, choose, together=together)
                    for choose in (first, last, Random(0).choice, Random(1).choice)
                }
            if outcomes != {FINISH}:
                return f"with capacity {capacity}, together {together}: {outcomes}"
    return ""


def first(possible: list[T]) -> T:
    """Always the first step: streams run as far as they can, messages move late."""
    return possible[0]


def last(possible: list[T]) -> T:
    """Always the last step: messages move at once."""
    return possible[-1]


@cache
def _finishes(key: "_Key", most: int) -> str:
    for capacity in CAPACITIES:
        try:
            outcomes = explore(key.program, capacity, most)
        except TooLarge:
            outcomes = {follow(key.program, capacity, choose) for choose in choosers(2)}
        if outcomes != {FINISH}:
            return f"with capacity {capacity}: {outcomes}"
    return ""


def finishes(program: Program, most: int = 200_000) -> str:
    """Nothing ("") if every interleaving finishes; where there are too many, some extreme and
    random ones. Remembered, since forged headers leave most lists as they are."""
    return _finishes(_Key(program), most)


class _Key:
    """A Program, equal to others that the explorer cannot tell from it."""

    def __init__(self, program: Program):
        self.program = program
        shape = [(len(p.stages), p.feeds, p.forward_only) for p in program.spec.pipelines]
        lists = program.ranks, program.channels, program.reductions
        self.value = *lists, program.name, tuple(shape)

    def __hash__(self) -> int:
        return hash(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.value == other.value
