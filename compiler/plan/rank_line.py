"""A rank's line: what it runs, folded. Its different instructions stand in a table, each once; a
Program's list is their numbers in the table, and what changes from one time to the next stands in
columns beside it: micro-batches, slices, units, places in the text.

In come the lists of one rank (`fold`), or a line that was decoded and checked
(`line_references.py`); out goes a `RankLine`, or the lists (`unfold`). Promised: a list that
is folded and unfolded is the same list, and equal lists are equal lines: the table is in the order
of first use, `train` before `eval`, and a column in which nothing stands is left out.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from typing import Any, NamedTuple, assert_never, cast

from msgspec import Struct, json
from msgspec.structs import replace

from stretto.compiler.problem.spec import NONE, operation_of
from stretto.compiler.program.program import (
    Await,
    BeginReduction,
    BeginUnshard,
    Compute,
    Free,
    Instruction,
    ProgramName,
    Receive,
    Reduce,
    Send,
    Wait,
)

NAMES: tuple[ProgramName, ...] = ("train", "eval")


class IssuedList(NamedTuple):
    """One rank's instructions of a Program, and the stream of each; without streams none."""

    instructions: tuple[Instruction, ...]
    streams: tuple[int, ...] = ()


RankLists = dict[ProgramName, IssuedList]
"""One rank's lists, by the name of the Program."""


class OperationShape(NamedTuple):
    """An operation without its micro-batch and slice. Where no stage is cut into parts the part
    does not stand in the file."""

    kind: str
    pipeline: int
    stage: int
    part: int = NONE


class FoldedCompute(Struct, frozen=True, array_like=True, tag="compute", gc=False):
    """`Compute` without what changes: its unit and place, its operation's micro-batch. Its stream
    is that of the entry."""

    operation: OperationShape
    reads: tuple[int, ...]
    writes: int


class FoldedReceive(Struct, frozen=True, array_like=True, tag="receive", gc=False):
    """`Receive` without its result's micro-batch."""

    slot: int
    channel: int
    result: OperationShape


class FoldedAwait(Struct, frozen=True, array_like=True, tag="await", gc=False):
    """`Await` without its operation's micro-batch."""

    operation: OperationShape


Changing = FoldedCompute | FoldedReceive | FoldedAwait
"""The entries that have an operation, and so another micro-batch from one time to the next."""

CHANGING = FoldedCompute, FoldedReceive, FoldedAwait

Entry = Changing | Send | Wait | Free | Reduce | BeginReduction | BeginUnshard
"""What stands in a rank's table. Where nothing changes it is the instruction."""


class FoldedList(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A Program's list: of each instruction its number in the table (`list`). `microbatches` and
    `slices` have one for each instruction that has an operation, in the order of the list; `units`
    and `at`, the index in `Spec.spans`, one for each computation. -1 is none; a column of nothing
    else is left out."""

    list: tuple[int, ...]
    microbatches: tuple[int, ...] = ()
    slices: tuple[int, ...] = ()
    units: tuple[int, ...] = ()
    at: tuple[int, ...] = ()


class RankLine(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The line of one rank. `streams`: where the plan has streams, of each entry of the table."""

    rank: int
    instructions: tuple[Entry, ...]
    programs: dict[ProgramName, FoldedList]
    streams: tuple[int, ...] = ()


# ---------------------------------------------------------------------------- folding

_Key = tuple[Any, ...] | Instruction
"""What is looked up: where something changes what does not, of a `Compute` seven values, of a
`Receive` six, of an `Await` four; else the instruction."""


def fold(rank: int, lists: Mapping[ProgramName, IssuedList]) -> RankLine:
    """The lists of a rank as its line. Raises `ValueError` where not every instruction has a
    stream, or that of a computation is not the one it says itself."""
    table: dict[_Key, int] = {}
    on_streams: dict[tuple[int, int], int] = {}
    folded: dict[ProgramName, FoldedList] = {}
    streamed = any(own.streams for own in lists.values())
    for name in NAMES:
        if name not in lists:
            continue
        folded[name] = own = _folded(lists[name].instructions, table)
        if streamed:
            pairs = [*zip(own.list, lists[name].streams, strict=True)]
            for one in dict.fromkeys(pairs):
                on_streams.setdefault(one, len(on_streams))
            folded[name] = replace(own, list=tuple(map(on_streams.__getitem__, pairs)))
    keys = list(table)
    entries = [(keys[k], stream) for k, stream in on_streams] or [(key, 0) for key in keys]
    for key, stream in entries:
        if isinstance(key, tuple) and len(key) == 7 and key[-1] != stream:
            raise ValueError(f"rank {rank}: a computation says another stream than its list")
    streams = tuple(stream for _, stream in on_streams)
    return RankLine(rank, tuple(_entry(key) for key, _ in entries), folded, streams)


def _folded(instructions: tuple[Instruction, ...], table: dict[_Key, int]) -> FoldedList:
    """The list by the numbers of its instructions in the table, which gets those that are new.
    Every instruction of a plan comes by here."""
    numbers: list[int] = []
    microbatches: list[int] = []
    slices: list[int] = []
    units: list[int] = []
    at: list[int] = []
    number_of = table.get
    for one in cast(tuple[Any, ...], instructions):
        key: _Key = one
        kind = type(one)
        if kind is Compute:
            operation, p, s, microbatch, slice_, part = one.operation
            microbatches.append(microbatch)
            slices.append(slice_)
            units.append(one.unit)
            at.append(one.at)
            key = operation, p, s, part, one.reads, one.writes, one.stream
        elif kind is Receive:
            operation, p, s, microbatch, slice_, part = one.result
            microbatches.append(microbatch)
            slices.append(slice_)
            key = operation, p, s, part, one.slot, one.channel
        elif kind is Await:
            operation, p, s, microbatch, slice_, part = one.operation
            microbatches.append(microbatch)
            slices.append(slice_)
            key = operation, p, s, part
        number = number_of(key)
        if number is None:
            number = table[key] = len(table)
        numbers.append(number)
    return FoldedList(tuple(numbers), *map(_column, (microbatches, slices, units, at)))


def _column(values: list[int]) -> tuple[int, ...]:
    return () if values.count(NONE) == len(values) else tuple(values)


def _entry(key: _Key) -> Entry:
    match key:
        case (kind, p, s, part, reads, writes, _):
            return FoldedCompute(OperationShape(kind, p, s, part), reads, writes)
        case (kind, p, s, part, slot, channel):
            return FoldedReceive(slot, channel, OperationShape(kind, p, s, part))
        case (kind, p, s, part):
            return FoldedAwait(OperationShape(kind, p, s, part))
    return cast(Entry, key)


def encode(line: RankLine) -> bytes:
    """The line as it stands in the file, with its line break."""
    entries = [_written(entry) for entry in line.instructions]
    value = {"rank": line.rank, "instructions": entries, "programs": line.programs}
    if line.streams:
        value["streams"] = line.streams
    return json.encode(value, order="sorted") + b"\n"


def _written(entry: Entry) -> Any:
    """The entry, without the part of an operation that has none."""
    match entry:
        case FoldedCompute(shape, reads, writes) if shape.part == NONE:
            return "compute", shape[:3], reads, writes
        case FoldedReceive(slot, channel, shape) if shape.part == NONE:
            return "receive", slot, channel, shape[:3]
        case FoldedAwait(shape) if shape.part == NONE:
            return "await", shape[:3]
    return entry


# ---------------------------------------------------------------------------- unfolding


def unfold(line: RankLine) -> RankLists:
    """The lists of a line whose numbers and columns fit (`check_line`): each instruction that
    changes is made anew, the others are shared by all places where they stand."""
    streams = line.streams or (0,) * len(line.instructions)
    found: RankLists = {}
    for name, own in line.programs.items():
        columns = _ColumnReaders(
            iter(own.microbatches),
            iter(own.slices) if own.slices else repeat(NONE),
            iter(own.units) if own.units else repeat(NONE),
            iter(own.at) if own.at else repeat(NONE),
        )
        same = [None if isinstance(one, CHANGING) else one for one in line.instructions]
        make = {
            k: _maker(one, streams[k], columns)
            for k in {*own.list}
            if isinstance(one := line.instructions[k], CHANGING)
        }
        instructions = tuple([same[k] or make[k]() for k in own.list])
        issued = tuple([streams[k] for k in own.list]) if line.streams else ()
        found[name] = IssuedList(instructions, issued)
    return found


class _ColumnReaders(NamedTuple):
    """What is left to be taken from each column of a list."""

    microbatches: Iterator[int]
    slices: Iterator[int]
    units: Iterator[int]
    at: Iterator[int]


def _maker(entry: Changing, stream: int, columns: _ColumnReaders) -> Callable[[], Instruction]:
    """What makes the next instruction of this entry. Called for most of a plan."""
    microbatches, slices, units, at = columns
    match entry:
        case FoldedCompute((kind, p, s, part), reads, writes):
            return lambda: Compute(
                operation_of((kind, p, s, next(microbatches), next(slices), part)),
                reads,
                writes,
                next(units),
                stream,
                next(at),
            )
        case FoldedReceive(slot, channel, (kind, p, s, part)):
            return lambda: Receive(
                slot, channel, operation_of((kind, p, s, next(microbatches), next(slices), part))
            )
        case FoldedAwait((kind, p, s, part)):
            return lambda: Await(operation_of((kind, p, s, next(microbatches), next(slices), part)))
    assert_never(entry)
