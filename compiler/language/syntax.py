"""`Schedule`: a file as it was written, statement by statement, every node with its `Span`. Nothing
is evaluated or filled in here; parentheses and comments are gone, chains of equal operators are
flat, and what was left out is None. A node is named after its rule in `grammar/pipe.lark`.
"""

from typing import Literal

from msgspec import Struct

from stretto.compiler.diagnostics.source import Source, Span

# isort: off
from stretto.compiler.language.expressions import (  # of expressions; the others stand here
    Both as Both,
    Call as Call,
    Chain as Chain,
    Comparison as Comparison,
    Conditional as Conditional,
    Either as Either,
    Expression as Expression,
    List as List,
    Member as Member,
    Name as Name,
    Negative as Negative,
    Not as Not,
    Number as Number,
    Subscript as Subscript,
    Word as Word,
)
# isort: on

Kind = Literal["F", "B", "I", "W"]
"""Forward, full backward, input gradient, weight gradient."""


# ---- Operations


class Range(Struct, frozen=True):
    """`name in first .. last`, last excluded."""

    name: Word
    first: Expression
    last: Expression
    span: Span


class Mention(Struct, frozen=True):
    """An operation as it is written: `F`, `B far`, `W?[s]`, `F main[0, 3, slice 2]`, or a part of
    one: `F.mlp main[0, 3, layer 2]`."""

    kind: Kind
    optional: bool
    part: Word | None
    pipeline: Word | None
    stage: Expression | None
    microbatch: Expression | None
    slice: Expression | None
    layer: Expression | None
    span: Span


# ---- Order blocks


class Next(Struct, frozen=True):
    """`next q`, `next? q`: the next operation, or pair, of a queue."""

    queue: Word
    optional: bool
    span: Span


class Pair(Struct, frozen=True):
    """`F near | B far`, or a half of it taken from a queue."""

    first: Mention | Next
    second: Mention | Next
    span: Span


class Repeat(Struct, frozen=True):
    """`repeat n as k { … }`."""

    count: Expression
    name: Word | None
    body: "Block"
    span: Span


class Loop(Struct, frozen=True):
    """`for i in a .. b, j in … { … }`; the last name varies fastest."""

    ranges: tuple[Range, ...]
    body: "Block"
    span: Span


class If(Struct, frozen=True):
    """`if c { … } else if d { … } else { … }`: the cases (condition, block), then the rest."""

    cases: "tuple[tuple[Expression, Block], ...]"
    otherwise: "Block | None"
    span: Span


class Let(Struct, frozen=True):
    """`let NAME = E`, at the top of the file or in a block."""

    name: Word
    value: Expression
    span: Span


class Queue(Struct, frozen=True):
    """`queue q = OP for …`."""

    name: Word
    mention: Mention
    ranges: tuple[Range, ...]
    span: Span


class QueueBlock(Struct, frozen=True):
    """`queue q { … }`."""

    name: Word
    body: "Block"
    span: Span


Step = Mention | Pair | Next | Repeat | Loop | If | Let | Queue | QueueBlock


class Block(Struct, frozen=True):
    """`{ … }`: steps of an order, one after the other."""

    steps: tuple[Step, ...]
    span: Span


# ---- Declarations


class Titled(Struct, frozen=True):
    """`schedule NAME`."""

    name: Word
    span: Span


class Ranks(Struct, frozen=True):
    """`ranks E`."""

    value: Expression
    span: Span


class Microbatches(Struct, frozen=True):
    """Of the schedule or, inside a pipeline, of that pipeline."""

    value: Expression
    span: Span


class Param(Struct, frozen=True):
    """`param NAME = E`: a value that `--set` may replace."""

    name: Word
    value: Expression
    span: Span


class Require(Struct, frozen=True):
    """`require E, "why"`."""

    condition: Expression
    why: str | None
    span: Span


class Stages(Struct, frozen=True):
    """`stages E`: a pipeline's number of stages."""

    value: Expression
    span: Span


class Place(Struct, frozen=True):
    """`place stage -> rank`."""

    stage: Word
    rank: Expression
    span: Span


class Replicates(Struct, frozen=True):
    """`replicates OTHER`: a copy of the weights and stages of another pipeline."""

    original: Word
    span: Span


class ModelName(Struct, frozen=True):
    """`model "name"`: which model the pipeline runs."""

    name: str
    span: Span


class Feeds(Struct, frozen=True):
    """`feeds OTHER[k]`: the last stage's output is an input of stage k of OTHER."""

    pipeline: Word
    stage: Expression
    span: Span


class ForwardOnly(Struct, frozen=True):
    """`forward only`: the pipeline has no backward."""

    span: Span


Property = Stages | Microbatches | Place | Replicates | ModelName | Feeds | ForwardOnly


class Pipeline(Struct, frozen=True):
    """`pipeline NAME { … }`."""

    name: Word
    properties: tuple[Property, ...]
    span: Span


class SplitBackward(Struct, frozen=True):
    """`split B into I, W`."""

    span: Span


class Part(Struct, frozen=True):
    """A part of a stage in `split F into …`, the stream it runs on if one is named, and when it is
    there."""

    name: Word
    stream: Word | None
    condition: Expression | None
    span: Span


class PartGroup(Struct, frozen=True):
    """`n * (a, b on comm) if c`: n layers of a group of parts."""

    count: Expression
    parts: tuple[Part, ...]
    condition: Expression | None
    span: Span


class SplitForward(Struct, frozen=True):
    """`split F[s] into a if s == 0, n * (b, c on comm)`: the chain of every stage; `stage` names
    its number."""

    stage: Word | None
    items: tuple[Part | PartGroup, ...]
    span: Span


class SplitMicrobatch(Struct, frozen=True):
    """`split microbatch into E slices`."""

    slices: Expression
    span: Span


class Overlap(Struct, frozen=True):
    """`overlap F | B`: what an F may overlap with."""

    kind: Literal["B", "I"]
    span: Span


class Cost(Struct, frozen=True):
    """Of an operation or, with `other`, of an overlapped pair."""

    operation: Mention
    other: Mention | None
    value: Expression
    ranges: tuple[Range, ...]
    span: Span


class Activation(Struct, frozen=True):
    """`activation main[stage] = E`: what one forward leaves in memory."""

    pipeline: Word | None
    stage: Expression | None
    value: Expression
    ranges: tuple[Range, ...]
    span: Span


class PartActivation(Struct, frozen=True):
    """`activation F.mlp main[stage, layer l] = E`: what a part's forward leaves on top."""

    operation: Mention
    value: Expression
    ranges: tuple[Range, ...]
    span: Span


class Kept(Struct, frozen=True):
    """`activation after I = E`."""

    pipeline: Word | None
    stage: Expression | None
    value: Expression
    ranges: tuple[Range, ...]
    span: Span


class Transfer(Struct, frozen=True):
    """`transfer E for rank a -> b`: the time from the end of an operation to its result being
    usable on another rank."""

    value: Expression
    source: Word | None
    target: Word | None
    span: Span


class Limit(Struct, frozen=True):
    """`limit activations <= E for rank r`."""

    value: Expression
    rank: Word | None
    span: Span


class ReduceGradients(Struct, frozen=True):
    """`reduce gradients cost E for stage s`: the gradients of every stage are averaged with those
    of its replicas, once, after its last weight gradient."""

    value: Expression | None
    stage: Word | None
    span: Span


class UnshardWeights(Struct, frozen=True):
    """`unshard weights cost E for stage s`: the weights of every stage are gathered from its
    replicas, once, before its first forward."""

    value: Expression | None
    stage: Word | None
    span: Span


class Minimize(Struct, frozen=True):
    """`minimize makespan under jitter E`: what the compiler's order aims at."""

    aim: Literal["makespan", "span"]
    jitter: Expression | None
    span: Span


class Rule(Struct, frozen=True):
    """`rule OP after OP for …`."""

    later: Mention
    earlier: Mention
    ranges: tuple[Range, ...]
    span: Span


class OrderRank(Struct, frozen=True):
    """`order rank r { … }`: the order of every rank."""

    rank: Word
    body: Block
    span: Span


class OrderAuto(Struct, frozen=True):
    """`order auto`: the compiler completes the order."""

    span: Span


CostStatement = Cost | Activation | PartActivation | Kept | Transfer
"""What a file for `--costs` has."""

Statement = (
    Titled
    | Ranks
    | Microbatches
    | Param
    | Let
    | Require
    | Pipeline
    | SplitBackward
    | SplitForward
    | SplitMicrobatch
    | Overlap
    | CostStatement
    | Limit
    | Minimize
    | Rule
    | ReduceGradients
    | UnshardWeights
    | OrderRank
    | OrderAuto
)


class Schedule(Struct, frozen=True):
    """A schedule file."""

    source: Source
    statements: tuple[Statement, ...]


class CostFile(Struct, frozen=True):
    """A file for `--costs`."""

    source: Source
    statements: tuple[CostStatement, ...]
