"""The nodes of expressions, and `Word`, a name with its place, of which all other syntax is made:
see `stretto.compiler.language.syntax`, which has them too."""

from fractions import Fraction

from msgspec import Struct

from stretto.compiler.diagnostics.source import Span


class Word(Struct, frozen=True):
    """A name, or a word of the language that is needed with its place."""

    text: str
    span: Span


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
