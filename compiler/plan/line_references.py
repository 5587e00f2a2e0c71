"""Whether everything that a rank's line refers to is there, its table, lists and columns fit each
other, and they are what `fold` would make of them. Types were checked when it was decoded, and the
Spec before that; what the lists mean is for the proof.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import assert_never

from stretto.compiler.plan.findings import Wrong, index, stage_of, unknown
from stretto.compiler.plan.rank_line import (
    CHANGING,
    NAMES,
    Changing,
    Entry,
    FoldedAwait,
    FoldedCompute,
    FoldedList,
    FoldedReceive,
    OperationShape,
    RankLine,
)
from stretto.compiler.problem.kinds import KINDS
from stretto.compiler.problem.spec import NONE, Spec
from stretto.compiler.program.program import (
    BeginReduction,
    BeginUnshard,
    Free,
    ProgramName,
    Reduce,
    Send,
    Wait,
)


def check_line(spec: Spec, channels: int, reductions: int, line: RankLine) -> Iterator[Wrong]:
    """One rank's line: its table, its lists, and their columns. Where nothing is wrong it can be
    unfolded, to no more than one instruction for each number in it."""
    counts: dict[ProgramName, Counter[int]] = {
        name: Counter(own.list) for name, own in line.programs.items()
    }
    wrong = [*islice(_numbers(line, counts), 1)] or [*_entry_streams(spec, line)]
    yield from wrong
    fine = not wrong
    slots = [0] * len(line.instructions)  # a list has enough if it has one per instruction
    for name in sorted(counts, key=lambda name: -len(line.programs[name].list)):
        for k in counts[name] if fine else ():
            slots[k] = len(line.programs[name].list)
    for k, entry in enumerate(line.instructions if fine else ()):
        for one in _entry(f"$.instructions[{k}]", entry, spec, (slots[k], channels, reductions)):
            yield one
            fine = False
    for name, own in line.programs.items() if fine else ():
        yield from _columns(f"$.programs.{name}", spec, own, line.instructions, counts[name])


def _numbers(line: RankLine, counts: dict[ProgramName, Counter[int]]) -> Iterator[Wrong]:
    """The table has each instruction once, in the order in which the lists first name them."""
    many = len(line.instructions)
    for name, own in line.programs.items():
        for k in counts[name]:
            if not 0 <= k < many:
                path = f"$.programs.{name}.list[{own.list.index(k)}]"
                yield from index(path, k, many, "instructions")
    used = dict.fromkeys(k for name in NAMES for k in counts.get(name, ()))
    for k, first in enumerate(used):
        if k != first:
            yield f"$.instructions[{k}]", f"the lists name {first} first: that should stand here"
    if len(used) < many:
        yield f"$.instructions[{len(used)}]", "no list names it"


def _entry_streams(spec: Spec, line: RankLine) -> Iterator[Wrong]:
    """Where the plan has streams each entry of the table has one, and only there."""
    entries, streams = line.instructions, line.streams
    if len(streams) != (len(entries) if spec.streams else 0):
        yield "$.streams", f"there are {len(entries)} instructions, and {len(streams)} streams"
        return
    for k, stream in enumerate(streams):
        yield from index(f"$.streams[{k}]", stream, len(spec.streams), "streams")
    there: dict[object, int] = {}
    for k, one in enumerate(zip(entries, streams, strict=True) if streams else entries):
        if there.setdefault(one, k) != k:
            yield f"$.instructions[{k}]", f"it stands there twice: see {there[one]}"


def _entry(path: str, entry: Entry, spec: Spec, sizes: tuple[int, int, int]) -> Iterator[Wrong]:
    """One entry of the table. `sizes`: how many slots, channels and reductions there are."""
    slots, channels, reductions = sizes
    match entry:
        case Wait(slot) | Free(slot):
            yield from index(f"{path}[1]", slot, slots, "slots")
        case FoldedCompute(operation, reads, writes):
            yield from _shape(f"{path}[1]", operation, spec)
            for k, slot in enumerate(reads):
                yield from index(f"{path}[2][{k}]", slot, slots, "slots")
            if writes != NONE:
                yield from index(f"{path}[3]", writes, slots, "slots")
        case FoldedReceive(slot, channel, result):
            yield from index(f"{path}[1]", slot, slots, "slots")
            yield from index(f"{path}[2]", channel, channels, "channels")
            yield from _shape(f"{path}[3]", result, spec)
        case Send(slot, channel):
            yield from index(f"{path}[1]", slot, slots, "slots")
            yield from index(f"{path}[2]", channel, channels, "channels")
        case FoldedAwait(operation):
            yield from _shape(f"{path}[1]", operation, spec)
        case Reduce(reduction):
            yield from index(f"{path}[1]", reduction, reductions, "reductions")
        case BeginReduction(p, s) | BeginUnshard(p, s):
            yield from stage_of(path, p, s, spec, at=1)
        case _:
            assert_never(entry)


def _shape(path: str, shape: OperationShape, spec: Spec) -> Iterator[Wrong]:
    """An operation without its micro-batch."""
    kind, p, s, part = shape
    if kind not in KINDS:
        yield f"{path}[0]", unknown(kind)
    wrong = [*stage_of(path, p, s, spec, at=1)]
    if not wrong and not spec.parts and part != NONE:
        wrong.append((f"{path}[3]", f"no stage is cut into parts, so there is none, not {part}"))
    elif not wrong and spec.parts:
        wrong += index(f"{path}[3]", part, len(spec.parts[p][s]), "parts")
    yield from wrong


def _columns(
    path: str, spec: Spec, own: FoldedList, entries: tuple[Entry, ...], counts: Counter[int]
) -> Iterator[Wrong]:
    """What stands beside a list: as much as there is use for, and nothing absurd. The table was
    checked before."""
    most = {
        k: spec.pipelines[_operation_of(one).pipeline].microbatches
        for k, one in enumerate(entries)
        if k in counts and isinstance(one, CHANGING)
    }
    operations = sum(counts[k] for k in most)
    computations = sum(counts[k] for k in most if isinstance(entries[k], FoldedCompute))
    for key, column, many, least, there, what in (
        ("microbatches", own.microbatches, operations, 0, None, ""),
        ("slices", own.slices, operations if spec.slices else 0, 0, spec.slices, "slices"),
        ("units", own.units, computations if own.units else 0, NONE, len(own.list), "units"),
        ("at", own.at, computations if own.at else 0, NONE, len(spec.spans), "spans"),
    ):
        if len(column) != many:
            yield f"{path}.{key}", f"there is use for {many}, and there are {len(column)}"
        elif many and column.count(NONE) == many:
            yield f"{path}.{key}", "nothing stands in it: it is left out then"
        elif there is None:
            yield from _microbatches(f"{path}.{key}", own, most)
        elif many and not least <= min(column) <= max(column) < there:
            for i, value in enumerate(column):
                if not value == least == NONE:
                    yield from index(f"{path}.{key}[{i}]", value, there, what)


def _operation_of(entry: Changing) -> OperationShape:
    return entry.result if isinstance(entry, FoldedReceive) else entry.operation


def _microbatches(path: str, own: FoldedList, most: dict[int, int]) -> Iterator[Wrong]:
    """Each is one of its operation's pipeline; `most`: how many there are, by entry."""
    if not most or 0 <= min(own.microbatches) <= max(own.microbatches) < min(most.values()):
        return
    there = (most[k] for k in own.list if k in most)
    for i, (value, many) in enumerate(zip(own.microbatches, there, strict=True)):
        yield from index(f"{path}[{i}]", value, many, "micro-batches")
