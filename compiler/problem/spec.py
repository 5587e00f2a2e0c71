"""What is to be done, with every expression evaluated: `Spec`, the value that `evaluate` makes,
that every Program carries, and from which the proof derives what must happen.

Times are whole ticks, `time_unit` of them to one unit of the file's costs; sizes are whole grains,
`size_unit` of them to one unit of the file's activations. Both denominators were chosen so that
nothing is rounded, where there are such; else `Spec.rounded` says what was. -1 stands for "none"
wherever an index may be absent.
"""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from functools import partial
from hashlib import sha256
from typing import Literal, NamedTuple

from msgspec import Struct, json

from stretto.compiler.diagnostics.source import Span

Kind = str
"""The letter of a kind of operation, a row of `kinds.KINDS`: `F` forward, `B` full backward, `I`
input gradient, `W` weight gradient."""

MAIN_KINDS = ("F", "B", "I", "W")
"""The kinds whose costs every stage has."""

NONE = -1

MOST_STREAMS = 64
"""How many streams a rank may have: each is a thread, and on a GPU a queue, of which there are 32.
"""


class Operation(NamedTuple):
    """The name of one computation. Two operations are the same iff their names are equal.

    `pipeline` is an index into `Spec.pipelines`; `microbatch` counts from 0 in that pipeline;
    `slice` (of the sequence) and `part` (of the stage) are -1 where the schedule has none.
    """

    kind: Kind
    pipeline: int
    stage: int
    microbatch: int
    slice: int = NONE
    part: int = NONE


operation_of: Callable[[tuple[Kind, int, int, int, int, int]], Operation]
operation_of = partial(tuple.__new__, Operation)
"""The Operation of these six values, for those who make all of a step: in half of the time that
`Operation(...)` takes."""


class Part(NamedTuple):
    """One part of a stage. `layer` counts from 0 on each stage and is -1 outside of groups;
    `stream` is an index into `Spec.streams`."""

    name: str
    layer: int
    stream: int


def backward_kinds(stream: int, split: bool) -> tuple[Kind, ...]:
    """The kinds of operations that the backward of a part on this stream has, where backwards are
    `split` or not: weight gradients are computed on stream 0, `compute`, alone."""
    return ("B",) if not split else ("I", "W") if stream == 0 else ("I",)


class PartFigures(NamedTuple):
    """What one part of a stage costs, by kind, in ticks, and the grains that its F adds to the
    stage's activation, until its own W has ended, or its I or B where it has no W. Kinds that the
    part does not have cost 0: B where backwards are split, I and W where they are not, W on another
    stream than `compute`."""

    F: int
    B: int
    I: int  # noqa: E741  the field's standard letter
    W: int
    activation: int


class Stage(Struct, frozen=True, forbid_unknown_fields=True):
    """One stage of a pipeline: where it runs, what it costs (ticks), what a forward leaves in
    memory (grains) from its start until its B or W has ended, and what is `kept` of that from the
    end of I on. `further`: the costs of other kinds of operations, by letter. `parts`: the figures
    of each part of its chain, of which F, B, I and W are then the sums (B that of I and W where
    backwards are split); empty where stages are whole."""

    rank: int
    F: int
    B: int
    I: int  # noqa: E741  the field's standard letter
    W: int
    activation: int
    kept: int
    further: dict[Kind, int] = {}
    parts: tuple[PartFigures, ...] = ()

    def ticks(self, kind: Kind) -> int:
        """What an operation of this kind costs here, in ticks."""
        return int(getattr(self, kind)) if kind in MAIN_KINDS else self.further.get(kind, 0)


class Feed(NamedTuple):
    """The last stage's output is an input of `stage` of `pipeline`, micro-batch by micro-batch."""

    pipeline: int
    stage: int


class Pipeline(Struct, frozen=True, forbid_unknown_fields=True):
    """A stream of micro-batches through a chain of stages.

    `replicates` is the index of the pipeline whose weights these are (never itself a copy), or -1.
    `first` is the place of this pipeline's micro-batch 0 among all micro-batches of its model:
    the original takes the first ones, then the copies in the order of the file. `at` is the
    statement's index in `Spec.spans`.
    """

    name: str
    stages: tuple[Stage, ...]
    microbatches: int
    first: int
    at: int
    replicates: int = NONE
    model: str = ""
    feeds: tuple[Feed, ...] = ()
    forward_only: bool = False


class CostOverride(NamedTuple):
    """One operation whose duration differs from its stage's (it names a micro-batch or slice)."""

    operation: Operation
    ticks: int


class Pair(NamedTuple):
    """How long an F of one stage and a B (or I) of another take as one overlapped unit on `rank`.
    Pairs that are not listed take the sum of the two."""

    rank: int
    forward: tuple[int, int]  # pipeline, stage
    kind: Kind  # of the other: B or I
    backward: tuple[int, int]
    ticks: int


class PairCostOverride(NamedTuple):
    """One overlapped unit whose duration differs from its stages' `Pair`."""

    forward: Operation
    backward: Operation
    ticks: int


class Transfer(NamedTuple):
    """Ticks from the end of an operation on `source` to its result being usable on `target`."""

    source: int
    target: int
    ticks: int


class Limit(NamedTuple):
    """No more than `grains` of activations at once on this rank; the tightest that was written."""

    grains: int
    at: int


class Rule(NamedTuple):
    """`later` starts only when `earlier` has ended."""

    later: Operation
    earlier: Operation
    at: int


class Unit(NamedTuple):
    """One step of a written order: an operation, or an F with the B or I it overlaps."""

    operations: tuple[Operation, ...]
    at: int  # index in Spec.spans


unit_of: Callable[[tuple[tuple[Operation, ...], int]], Unit] = partial(tuple.__new__, Unit)
"""The Unit of these two values, as `operation_of`."""


class JoinedPair(NamedTuple):
    """Two operations, cut into parts, that an order of `rank` writes as a pair: kind as written,
    pipeline and stage of the one that begins and of the other. `sequence`: their parts as they
    stand in the list (0 for the first or 1, kind, index into the chain). For the two alone, in
    ticks: the `span` of this sequence, that of taking `turns`, and the `load` of each stream."""

    rank: int
    first: tuple[Kind, int, int]
    second: tuple[Kind, int, int]
    span: int
    turns: int
    load: tuple[int, ...]
    sequence: tuple[tuple[int, Kind, int], ...]


class StageTicks(NamedTuple):
    """What is done once for a stage in every step, and how many ticks it takes."""

    pipeline: int
    stage: int
    ticks: int


class TiedPlace(NamedTuple):
    """Where a parameter stands: a stage, and the name that its module gives it."""

    pipeline: int
    stage: int
    name: str


class Tie(Struct, frozen=True, forbid_unknown_fields=True):
    """One parameter of the model that stands in several places. `holders`: each is one parameter in
    the memory of one rank, with all places where that one stands; in this order their gradients are
    added. A schedule says nothing of it: a runtime that has seen the model does."""

    name: str
    holders: tuple[tuple[TiedPlace, ...], ...]

    @property
    def places(self) -> tuple[TiedPlace, ...]:
        """All places, holder by holder."""
        return tuple(place for holder in self.holders for place in holder)


class Spec(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything the author decided.

    `order` has, for every rank, the digest of the order that was written for it (`digest`), or
    "" where the compiler is to find or complete it; `written` has the orders themselves, complete
    or partial, and is left out of plan files: there the instruction list is the order, and the
    digest ties the two. Where nothing was written for any rank `written` is empty. `ties` alone is
    not the author's: what was found out of the model since.
    `reduce_gradients`, of every stage that is trained, and `unshard_weights`, of every stage, are
    empty where the file does not say them.
    Where stages are cut into parts, `streams` has the names of the streams of every rank, `compute`
    first, and `parts[p][s]` the chain of stage s of pipeline p, in the order of its forward (equal
    chains are one value); operations are then single parts, and so is each unit of `written`, and
    `joined` has the pairs that were written. Else all three are empty.
    `rounded` has `times`, `sizes` or both where no common denominator of them fits: they were then
    rounded to whole ticks or grains, before anything was derived from them. Its values are indices
    in `spans`: where the finest of them stands.
    `sizes_in` is the unit (`GiB`) in which the file writes sizes, if it has one: for people.
    """

    name: str
    ranks: int
    microbatches: int
    pipelines: tuple[Pipeline, ...]
    time_unit: int
    size_unit: int
    spans: tuple[Span, ...]
    parameters: dict[str, str] = {}  # every `param`, `ranks`, `microbatches`, as exact text
    slices: int = 0  # per micro-batch; 0 where it is not cut
    split_backward: bool = False
    overlap: tuple[Kind, ...] = ()  # what an F may overlap with: B, I
    exceptions: tuple[CostOverride, ...] = ()
    pairs: tuple[Pair, ...] = ()
    exceptional_pairs: tuple[PairCostOverride, ...] = ()
    transfers: tuple[Transfer, ...] = ()  # those that are not 0, between ranks that talk
    limits: tuple[Limit | None, ...] = ()  # per rank; empty where there is none
    rules: tuple[Rule, ...] = ()
    minimize: Literal["makespan", "span"] = "makespan"
    jitter: tuple[int, int] = (0, 1)  # numerator, denominator
    order: tuple[str, ...] = ()  # per rank
    written: tuple[tuple[Unit, ...], ...] = ()
    ties: tuple[Tie, ...] = ()
    reduce_gradients: tuple[StageTicks, ...] = ()
    unshard_weights: tuple[StageTicks, ...] = ()
    streams: tuple[str, ...] = ()
    parts: tuple[tuple[tuple[Part, ...], ...], ...] = ()
    joined: tuple[JoinedPair, ...] = ()
    rounded: dict[str, int] = {}
    sizes_in: str = ""


def show(spec: Spec, operation: Operation) -> str:
    """The one notation for an operation everywhere: `F main[0, 3]`, with a slice
    `F main[0, 3, slice 2]`, of a part `F.mlp main[0, 3, layer 2]`."""
    pipeline = spec.pipelines[operation.pipeline].name
    where = f"{operation.stage}, {operation.microbatch}"
    if operation.slice != NONE:
        where += f", slice {operation.slice}"
    if operation.part == NONE:
        return f"{operation.kind} {pipeline}[{where}]"
    part = spec.parts[operation.pipeline][operation.stage][operation.part]
    if part.layer != NONE:
        where += f", layer {part.layer}"
    return f"{operation.kind}.{part.name} {pipeline}[{where}]"


def number(amount: int | Fraction, unit: int = 1) -> int | str:
    """`amount / unit` as our JSON shows it: a number when whole, else the text of a fraction."""
    value = Fraction(amount, unit)
    return value.numerator if value.denominator == 1 else str(value)


PartChains = Sequence[Sequence[Sequence[Part]]]
"""As `Spec.parts`: by pipeline and stage the parts in the order of its forward."""


def by_stream(
    units: Iterable[tuple[Operation, ...]], parts: PartChains
) -> Iterable[tuple[Operation, ...]]:
    """One rank's order with the units of each stream together, each stream's in their sequence:
    where stages are cut into `parts`, all that an order says. Else the units as they are."""
    if not parts:
        return units
    return sorted(
        units, key=lambda unit: parts[unit[0].pipeline][unit[0].stage][unit[0].part].stream
    )


def digest(units: Iterable[tuple[Operation, ...]]) -> str:
    """A short fingerprint of one rank's order: its operations in sequence, pairs marked; of parts
    the sequence is that of `by_stream`. The text that it is of has a line for each unit, and an
    operation as `F0.3.17.-1.-1`; JSON, which is written in one step, has all but the marks."""
    text = json.encode([*units])[len('[[["') : -len("]]]")]
    for mark, ours in ((b']],[["', b"\n"), (b'],["', b"|"), (b'",', b""), (b",", b".")):
        text = text.replace(mark, ours)
    return sha256(text).hexdigest()[:16]


class Costs:
    """How long each operation and each overlapped unit takes, in ticks: the Spec's tables, with
    the exceptions laid over them."""

    def __init__(self, spec: Spec):
        self._stages: dict[tuple[str, int, int], int] = {
            (kind, p, s): stage.ticks(kind)
            for p, pipeline in enumerate(spec.pipelines)
            for s, stage in enumerate(pipeline.stages)
            for kind in (*MAIN_KINDS, *stage.further)
        }
        self._parts: dict[tuple[str, int, int, int], int] = {
            (kind, p, s, number): getattr(figures, kind)
            for p, pipeline in enumerate(spec.pipelines)
            for s, stage in enumerate(pipeline.stages)
            for number, figures in enumerate(stage.parts)
            for kind in MAIN_KINDS
        }
        self._exceptions = dict(spec.exceptions)
        self._pairs = {(p.forward, p.kind, p.backward): p.ticks for p in spec.pairs}
        self._exceptional_pairs = {(p.forward, p.backward): p.ticks for p in spec.exceptional_pairs}

    def of(self, operation: Operation) -> int:
        """Ticks that the operation takes alone."""
        if self._exceptions:
            exception = self._exceptions.get(operation)
            if exception is not None:
                return exception
        if operation.part != NONE:
            return self._parts[*operation[:3], operation.part]
        return self._stages[operation[:3]]

    def pair(self, forward: Operation, backward: Operation) -> int:
        """Ticks that the two take as one overlapped unit."""
        exception = self._exceptional_pairs.get((forward, backward))
        if exception is not None:
            return exception
        ticks = self._pairs.get((forward[1:3], backward.kind, backward[1:3]))
        return self.of(forward) + self.of(backward) if ticks is None else ticks

    def unit(self, operations: tuple[Operation, ...]) -> int:
        """Ticks of a unit of an order: one operation, or an F and what it overlaps."""
        return self.of(operations[0]) if len(operations) == 1 else self.pair(*operations)
