"""`Schedule`: a file as it was written, statement by statement, every node with its `Span`. Nothing
is evaluated or filled in here; parentheses and comments are gone, chains of equal operators are
flat, and what was left out is None. A node is named after its rule in `grammar/pipe.lark`.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from stretto.compiler.source import Source, Span
from stretto.compiler.spec import Kind


@dataclass(frozen=True, slots=True)
class Word:
    """A name, or a word of the language that is needed with its place."""

    text: str
    span: Span


# ---- Expressions


@dataclass(frozen=True, slots=True)
class Number:
    """Exact; `20 GiB` is already multiplied out."""

    value: int | Fraction
    span: Span


@dataclass(frozen=True, slots=True)
class Name:
    """A name, `stages`, or in the cost of a pair `F`, `B`, `I` or `W`."""

    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class Member:
    """`main.stages`."""

    of: Word
    member: Word
    span: Span


@dataclass(frozen=True, slots=True)
class Call:
    function: Word
    arguments: "tuple[Expression, ...]"
    span: Span


@dataclass(frozen=True, slots=True)
class ListOf:
    items: "tuple[Expression, ...]"
    span: Span


@dataclass(frozen=True, slots=True)
class Subscript:
    """`list[i][j]`, all subscripts together."""

    of: "Expression"
    indices: "tuple[Expression, ...]"
    span: Span


@dataclass(frozen=True, slots=True)
class Negative:
    of: "Expression"
    span: Span


@dataclass(frozen=True, slots=True)
class Not:
    of: "Expression"
    span: Span


@dataclass(frozen=True, slots=True)
class Chain:
    """`a + b - c` or `a * b // c`: operators of one tightness, grouped from the left."""

    first: "Expression"
    rest: "tuple[tuple[str, Expression], ...]"
    span: Span


@dataclass(frozen=True, slots=True)
class Comparison:
    left: "Expression"
    operator: str
    right: "Expression"
    span: Span


@dataclass(frozen=True, slots=True)
class Both:
    """`a and b and c`."""

    operands: "tuple[Expression, ...]"
    span: Span


@dataclass(frozen=True, slots=True)
class Either:
    """`a or b or c`."""

    operands: "tuple[Expression, ...]"
    span: Span


@dataclass(frozen=True, slots=True)
class Conditional:
    """`if c then a else if d then b else e`: the cases (condition, value), then the rest."""

    cases: "tuple[tuple[Expression, Expression], ...]"
    otherwise: "Expression"
    span: Span


Expression = (
    Number
    | Name
    | Member
    | Call
    | ListOf
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


@dataclass(frozen=True, slots=True)
class Range:
    """`name in first .. last`, last excluded."""

    name: Word
    first: Expression
    last: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Mention:
    """An operation as it is written: `F`, `B far`, `W?[s]`, `F.dispatch main[0, 3, slice 2]`."""

    kind: Kind
    optional: bool
    part: Word | None
    pipeline: Word | None
    stage: Expression | None
    microbatch: Expression | None
    slice: Expression | None
    span: Span


# ---- Order blocks


@dataclass(frozen=True, slots=True)
class Next:
    queue: Word
    optional: bool
    span: Span


@dataclass(frozen=True, slots=True)
class Pair:
    """`F near | B far`, or a half of it taken from a queue."""

    first: Mention | Next
    second: Mention | Next
    span: Span


@dataclass(frozen=True, slots=True)
class Repeat:
    count: Expression
    name: Word | None
    body: "Block"
    span: Span


@dataclass(frozen=True, slots=True)
class Loop:
    """`for i in a .. b, j in … { … }`; the last name varies fastest."""

    ranges: tuple[Range, ...]
    body: "Block"
    span: Span


@dataclass(frozen=True, slots=True)
class If:
    cases: "tuple[tuple[Expression, Block], ...]"
    otherwise: "Block | None"
    span: Span


@dataclass(frozen=True, slots=True)
class Let:
    name: Word
    value: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Queue:
    """`queue q = OP for …`."""

    name: Word
    mention: Mention
    ranges: tuple[Range, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class QueueBlock:
    """`queue q { … }`."""

    name: Word
    body: "Block"
    span: Span


Step = Mention | Pair | Next | Repeat | Loop | If | Let | Queue | QueueBlock


@dataclass(frozen=True, slots=True)
class Block:
    steps: tuple[Step, ...]
    span: Span


# ---- Declarations


@dataclass(frozen=True, slots=True)
class Titled:
    """`schedule NAME`."""

    name: Word
    span: Span


@dataclass(frozen=True, slots=True)
class Ranks:
    value: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Microbatches:
    """Of the schedule or, inside a pipeline, of that pipeline."""

    value: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Param:
    name: Word
    value: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Require:
    condition: Expression
    why: str | None
    span: Span


@dataclass(frozen=True, slots=True)
class Stages:
    value: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Place:
    """`place stage -> rank`."""

    stage: Word
    rank: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Replicates:
    original: Word
    span: Span


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    span: Span


@dataclass(frozen=True, slots=True)
class Feeds:
    pipeline: Word
    stage: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class ForwardOnly:
    span: Span


Property = Stages | Microbatches | Place | Replicates | Model | Feeds | ForwardOnly


@dataclass(frozen=True, slots=True)
class Pipeline:
    name: Word
    properties: tuple[Property, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class SplitBackward:
    """`split B into I, W`."""

    span: Span


@dataclass(frozen=True, slots=True)
class Part:
    name: Word
    stream: Word | None
    span: Span


@dataclass(frozen=True, slots=True)
class SplitForward:
    """`split F into a, b on comm`."""

    parts: tuple[Part, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class SplitMicrobatch:
    slices: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Overlap:
    """`overlap F | B`: what an F may overlap with."""

    kind: Literal["B", "I"]
    span: Span


@dataclass(frozen=True, slots=True)
class Cost:
    """Of an operation or, with `other`, of an overlapped pair."""

    operation: Mention
    other: Mention | None
    value: Expression
    ranges: tuple[Range, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Activation:
    pipeline: Word | None
    stage: Expression | None
    value: Expression
    ranges: tuple[Range, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Kept:
    """`activation after I = E`."""

    pipeline: Word | None
    stage: Expression | None
    value: Expression
    ranges: tuple[Range, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Transfer:
    value: Expression
    source: Word | None
    target: Word | None
    span: Span


@dataclass(frozen=True, slots=True)
class Limit:
    """`limit activations <= E for rank r`."""

    value: Expression
    rank: Word | None
    span: Span


@dataclass(frozen=True, slots=True)
class Minimize:
    aim: Literal["makespan", "span"]
    jitter: Expression | None
    span: Span


@dataclass(frozen=True, slots=True)
class Rule:
    later: Mention
    earlier: Mention
    ranges: tuple[Range, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class OrderRank:
    rank: Word
    body: Block
    span: Span


@dataclass(frozen=True, slots=True)
class OrderAuto:
    span: Span


CostStatement = Cost | Activation | Kept | Transfer

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
    | OrderRank
    | OrderAuto
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule file."""

    source: Source
    statements: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class CostFile:
    """A file for `--costs`."""

    source: Source
    statements: tuple[CostStatement, ...]
