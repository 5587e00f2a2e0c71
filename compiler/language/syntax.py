"""`Schedule`: a file as it was written, statement by statement, every node with its `Span`. Nothing
is evaluated or filled in here; parentheses and comments are gone, chains of equal operators are
flat, and what was left out is None. A node is named after its rule in `grammar/pipe.lark`.
"""

from fractions import Fraction
from typing import Literal

from msgspec import Struct

from stretto.compiler.diagnostics.source import Source, Span

Kind = Literal["F", "B", "I", "W"]
"""Forward, full backward, input gradient, weight gradient."""


class Word(Struct, frozen=True):
    """A name, or a word of the language that is needed with its place."""

    text: str
    span: Span


# ---- Expressions


UNITS = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}
"""What a number is multiplied by that has a unit."""


class Number(Struct, frozen=True):
    """Exact; `20 GiB` is already multiplied out, and its `unit` is kept for people."""

    value: int | Fraction
    span: Span
    unit: str = ""


class Name(Struct, frozen=True):
    """A name, `stages`, or in the cost of a pair `F`, `B`, `I` or `W`."""

    text: str
    span: Span


class Member(Struct, frozen=True):
    """`main.stages`."""

    of: Word
    member: Word
    span: Span


class Call(Struct, frozen=True):
    """`min(a, b)`: a function of the language and its arguments."""

    function: Word
    arguments: "tuple[Expression, ...]"
    span: Span


class List(Struct, frozen=True):
    """`[1, 2, 3]`."""

    items: "tuple[Expression, ...]"
    span: Span


class Subscript(Struct, frozen=True):
    """`list[i][j]`, all subscripts together."""

    of: "Expression"
    indices: "tuple[Expression, ...]"
    span: Span


class Negative(Struct, frozen=True):
    """`-a`."""

    of: "Expression"
    span: Span


class Not(Struct, frozen=True):
    """`not a`."""

    of: "Expression"
    span: Span


class Chain(Struct, frozen=True):
    """`a + b - c` or `a * b // c`: operators of one tightness, grouped from the left."""

    first: "Expression"
    rest: "tuple[tuple[str, Expression], ...]"
    span: Span


class Comparison(Struct, frozen=True):
    """`a < b`; `operator` is one of `== != <= >= < >`."""

    left: "Expression"
    operator: str
    right: "Expression"
    span: Span


class Both(Struct, frozen=True):
    """`a and b and c`."""

    operands: "tuple[Expression, ...]"
    span: Span


class Either(Struct, frozen=True):
    """`a or b or c`."""

    operands: "tuple[Expression, ...]"
    span: Span


class Conditional(Struct, frozen=True):
    """`if c then a else if d then b else e`: the cases (condition, value), then the rest."""

    cases: "tuple[tuple[Expression, Expression], ...]"
    otherwise: "Expression"
    span: Span


Expression = (
    Number
    | Name
    | Member
    | Call
    | List
    | Subscript
    | Negative
    | Not
    | Chain
    | Comparison
    | Both
    | Either
    | Conditional
)


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
