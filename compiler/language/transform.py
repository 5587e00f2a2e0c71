"""From grammar rules to syntax nodes: `Build` has one method for every rule of `grammar/pipe.lark`,
which gets the rule's children (words and punctuation as tokens, the rest as nodes) and returns the
node. What the grammar lets through and the language does not mean is refused here, by a `Fault`.
"""

from fractions import Fraction
from itertools import pairwise
from typing import Any, NoReturn

from lark import Token
from msgspec import Struct
from msgspec.structs import replace

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.language import syntax as s

MOST_DIGITS = 300
UNITS = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}
SUFFIX = {"F": "forward", "B": "full backward", "I": "input gradient", "W": "weight gradient"}


class Fault(Exception):
    """A construct that cannot become a node; parsing goes on behind its statement."""

    def __init__(self, *diagnostics: Diagnostic):
        self.diagnostics = diagnostics
        super().__init__()


class SlicePlace(Struct, frozen=True):
    """`slice E` inside an index."""

    of: s.Expression
    span: Span


class Index(Struct, frozen=True):
    """`[stage, microbatch, slice k]`, in whatever shape it was written."""

    places: tuple[s.Expression, ...]
    slice: s.Expression | None
    span: Span


Children = list[Any]


class Build:
    """Nodes of one file. Holds nothing but the file's name."""

    def __init__(self, file: str):
        self.file = file

    # ---- Places

    def token(self, token: Token) -> Span:
        return Span(self.file, *place(token))

    def over(self, children: Children) -> Span:
        """From the first child to the last."""
        first, last = children[0], children[-1]
        return Span(self.file, *_first(first), *_last(last))

    def word(self, token: Token) -> s.Word:
        return s.Word(str(token), self.token(token))

    # ---- Files

    def schedule(self, c: Children) -> tuple[s.Statement, ...]:
        return tuple(nodes(c))

    costs = schedule

    # ---- Declarations

    def titled(self, c: Children) -> s.Titled:
        return s.Titled(self.word(c[1]), self.over(c))

    def ranks(self, c: Children) -> s.Ranks:
        return s.Ranks(c[1], self.over(c))

    def microbatches(self, c: Children) -> s.Microbatches:
        return s.Microbatches(c[1], self.over(c))

    def param(self, c: Children) -> s.Param:
        return s.Param(self.word(c[1]), c[3], self.over(c))

    def let(self, c: Children) -> s.Let:
        return s.Let(self.word(c[1]), c[3], self.over(c))

    def require(self, c: Children) -> s.Require:
        return s.Require(c[1], string(c[3]) if len(c) > 2 else None, self.over(c))

    def pipeline(self, c: Children) -> s.Pipeline:
        return s.Pipeline(self.word(c[1]), tuple(nodes(c)), self.over(c))

    def stages(self, c: Children) -> s.Stages:
        return s.Stages(c[1], self.over(c))

    def place(self, c: Children) -> s.Place:
        return s.Place(self.word(c[1]), c[3], self.over(c))

    def replicates(self, c: Children) -> s.Replicates:
        return s.Replicates(self.word(c[1]), self.over(c))

    def model_name(self, c: Children) -> s.ModelName:
        return s.ModelName(string(c[1]), self.over(c))

    def feeds(self, c: Children) -> s.Feeds:
        return s.Feeds(self.word(c[1]), c[3], self.over(c))

    def forward_only(self, c: Children) -> s.ForwardOnly:
        return s.ForwardOnly(self.over(c))

    def split_backward(self, c: Children) -> s.SplitBackward:
        if [c[1], c[3], c[5]] != ["B", "I", "W"]:
            self.fault(self.over(c), "a backward splits into `I`, then `W`", "split B into I, W")
        return s.SplitBackward(self.over(c))

    def split_forward(self, c: Children) -> s.SplitForward:
        if c[1] != "F":
            self.fault(
                self.token(c[1]),
                f"only the forward is cut into named parts, not `{c[1]}`",
                "split F into …: `I` and `W` follow",
            )
        return s.SplitForward(tuple(nodes(c)), self.over(c))

    def part(self, c: Children) -> s.Part:
        return s.Part(self.word(c[0]), self.word(c[2]) if len(c) > 2 else None, self.over(c))

    def split_microbatch(self, c: Children) -> s.SplitMicrobatch:
        return s.SplitMicrobatch(c[3], self.over(c))

    def overlap(self, c: Children) -> s.Overlap:
        first, second = str(c[1]), str(c[3])
        if first != "F" or second not in ("B", "I"):
            self.fault(
                self.over(c[1:]),
                f"`{first} | {second}` cannot overlap: a unit is an `F` with a `B` or an `I`",
                "overlap F | B",
            )
        return s.Overlap("B" if second == "B" else "I", self.over(c))

    def cost(self, c: Children) -> s.Cost:
        mentions = nodes(c, s.Mention)
        equals = next(i for i, child in enumerate(c) if token_is(child, "EQUAL"))
        ranges = c[-1] if isinstance(c[-1], tuple) else ()
        for mention in mentions:
            self.plain(mention)
        other = mentions[1] if len(mentions) > 1 else None
        if other is not None:
            self.cost_of_pair(mentions[0], other)
        return s.Cost(mentions[0], other, c[equals + 1], ranges, self.over(c))

    def cost_of_pair(self, first: s.Mention, second: s.Mention) -> None:
        if first.kind != "F" or second.kind not in ("B", "I"):
            self.fault(
                Span(self.file, *first.span[1:3], *second.span[3:]),
                f"`{first.kind} | {second.kind}` cannot overlap: a unit is an `F` with a `B` "
                "or an `I`",
                "cost F | B = …",
            )
        for mention in (first, second):
            if mention.microbatch or mention.slice or mention.part:
                self.fault(
                    mention.span,
                    "the cost of an overlapped unit may name pipelines and stages only",
                    "the costs of `F` and `B` may differ by micro-batch; `F` and `B` in the "
                    "unit's cost stand for them",
                )

    def activation(self, c: Children) -> s.Activation:
        return s.Activation(*self.sized(c[1:]), self.over(c))

    def kept(self, c: Children) -> s.Kept:
        if c[2] != "I":
            self.fault(
                self.token(c[2]),
                f"only `I` may free a part of an activation, not `{c[2]}`",
                "activation after I = …",
            )
        return s.Kept(*self.sized(c[3:]), self.over(c))

    def sized(
        self, c: Children
    ) -> tuple[s.Word | None, s.Expression | None, s.Expression, tuple[s.Range, ...]]:
        """Pipeline, stage, value and ranges of an activation's statement."""
        name = self.word(c[0]) if token_is(c[0], "NAME") else None
        index = next((child for child in c if isinstance(child, Index)), None)
        if index is not None and (len(index.places) != 1 or index.slice):
            self.fault(index.span, "an activation belongs to one stage", "activation[stage] = …")
        equals = next(i for i, child in enumerate(c) if token_is(child, "EQUAL"))
        ranges = c[-1] if isinstance(c[-1], tuple) else ()
        return name, index.places[0] if index else None, c[equals + 1], ranges

    def transfer(self, c: Children) -> s.Transfer:
        if len(c) == 2:
            return s.Transfer(c[1], None, None, self.over(c))
        return s.Transfer(c[1], self.word(c[4]), self.word(c[6]), self.over(c))

    def limit(self, c: Children) -> s.Limit:
        return s.Limit(c[3], self.word(c[6]) if len(c) > 4 else None, self.over(c))

    def minimize(self, c: Children) -> s.Minimize:
        aim = "makespan" if c[1] == "makespan" else "span"
        return s.Minimize(aim, c[4] if len(c) > 2 else None, self.over(c))  # type: ignore[arg-type]

    def rule(self, c: Children) -> s.Rule:
        return s.Rule(c[1], c[3], c[4] if len(c) > 4 else (), self.over(c))

    def order_rank(self, c: Children) -> s.OrderRank:
        return s.OrderRank(self.word(c[2]), c[3], self.over(c))

    def order_auto(self, c: Children) -> s.OrderAuto:
        return s.OrderAuto(self.over(c))

    # ---- Order blocks

    def block(self, c: Children) -> s.Block:
        steps = nodes(c)
        faults = [
            Diagnostic(
                "missing-separator",
                "two steps of an order on one line need a `;` between them",
                (Label(b.span, "a new step begins here"),),
                help="put `;` or a line break before it",
            )
            for a, b in pairwise(c)
            if not isinstance(a, Token | s.Repeat | s.Loop | s.If | s.QueueBlock)
            and not isinstance(b, Token)
            and a.span.end_line == b.span.line
        ]
        faults += [cut(x, x.part) for x in steps if isinstance(x, s.Mention) and x.part]
        if faults:
            raise Fault(*faults)
        return s.Block(tuple(steps), self.over(c))

    def pair(self, c: Children) -> s.Pair:
        for half in (c[0], c[2]):
            if half.optional:
                self.fault(
                    half.span,
                    "a half of an overlapped pair cannot be optional",
                    "leave out the `?`, or ask with `if` whether one is left",
                )
            if isinstance(half, s.Mention) and half.part:
                raise Fault(cut(half, half.part))
        first, second = c[0], c[2]
        if (isinstance(first, s.Mention) and first.kind != "F") or (
            isinstance(second, s.Mention) and second.kind not in ("B", "I")
        ):
            turned = isinstance(second, s.Mention) and second.kind == "F"
            self.fault(
                self.over(c),
                "an overlapped pair is an `F`, then the `B` or `I` that runs beside it",
                "write the `F` first" if turned else "F … | B …",
            )
        return s.Pair(first, second, self.over(c))

    def next(self, c: Children) -> s.Next:
        return s.Next(self.word(c[-1]), len(c) > 2, self.over(c))

    def repeat(self, c: Children) -> s.Repeat:
        return s.Repeat(c[1], self.word(c[3]) if len(c) > 3 else None, c[-1], self.over(c))

    def loop(self, c: Children) -> s.Loop:
        return s.Loop(tuple(nodes(c, s.Range)), c[-1], self.over(c))

    def if_(self, c: Children) -> s.If:
        parts = nodes(c)
        cases = tuple(zip(parts[0::2], parts[1::2], strict=False))
        return s.If(cases, parts[-1] if len(parts) % 2 else None, self.over(c))

    def queue(self, c: Children) -> s.Queue:
        if c[3].part:
            raise Fault(cut(c[3], c[3].part))
        return s.Queue(self.word(c[1]), c[3], c[4], self.over(c))

    def queue_block(self, c: Children) -> s.QueueBlock:
        return s.QueueBlock(self.word(c[1]), c[2], self.over(c))

    def ranges(self, c: Children) -> tuple[s.Range, ...]:
        return tuple(nodes(c))

    def range(self, c: Children) -> s.Range:
        return s.Range(self.word(c[0]), c[2], c[4], self.over(c))

    # ---- Operations

    def mention(self, c: Children) -> s.Mention:
        part = name = None
        for before, child in pairwise(c):
            if token_is(child, "NAME"):
                if token_is(before, "DOT"):
                    part = self.word(child)
                else:
                    name = self.word(child)
        index = c[-1] if isinstance(c[-1], Index) else Index((), None, self.over(c))
        if len(index.places) > 2:
            self.fault(
                index.places[2].span,
                "an operation has a stage, a micro-batch and at most a `slice`",
                f"{c[0]} main[stage, microbatch, slice k]",
            )
        stage, microbatch = (*index.places, None, None)[:2]
        optional = any(token_is(child, "QMARK") for child in c)
        return s.Mention(
            c[0].value, optional, part, name, stage, microbatch, index.slice, self.over(c)
        )

    exact = mention

    def index(self, c: Children) -> Index:
        places = nodes(c)
        sliced = isinstance(places[-1], SlicePlace)
        plain = places[:-1] if sliced else places
        for early in plain:
            if isinstance(early, SlicePlace):
                self.fault(early.span, "`slice` stands last inside `[ ]`", "F[stage, slice k]")
        return Index(tuple(plain), places[-1].of if sliced else None, self.over(c))

    def slice(self, c: Children) -> SlicePlace:
        return SlicePlace(c[1], self.over(c))

    def plain(self, mention: s.Mention) -> None:
        if mention.optional:
            self.fault(mention.span, "`?` has a meaning in order blocks only", "leave it out")

    # ---- Expressions

    def conditional(self, c: Children) -> s.Conditional:
        parts = nodes(c)
        cases = tuple(zip(parts[:-1:2], parts[1:-1:2], strict=True))
        return s.Conditional(cases, parts[-1], self.over(c))

    def either(self, c: Children) -> s.Either:
        return s.Either(tuple(nodes(c)), self.over(c))

    def both(self, c: Children) -> s.Both:
        return s.Both(tuple(nodes(c)), self.over(c))

    def not_(self, c: Children) -> s.Not:
        return s.Not(c[1], self.over(c))

    def comparison(self, c: Children) -> s.Comparison:
        return s.Comparison(c[0], str(c[1]), c[2], self.over(c))

    def sum(self, c: Children) -> s.Chain:
        rest = tuple((str(operator), of) for operator, of in zip(c[1::2], c[2::2], strict=True))
        return s.Chain(c[0], rest, self.over(c))

    product = sum

    def negative(self, c: Children) -> s.Negative:
        return s.Negative(c[1], self.over(c))

    def subscript(self, c: Children) -> s.Subscript:
        of, *indices = nodes(c)
        return s.Subscript(of, tuple(indices), self.over(c))

    def number(self, c: Children) -> s.Number:
        if len(c[0]) > MOST_DIGITS:
            self.fault(
                self.token(c[0]), f"this number has {len(c[0]):,} digits", "300 are the most"
            )
        value = Fraction(c[0]) if "." in c[0] else int(c[0])
        value *= UNITS[c[1]] if len(c) > 1 else 1
        return s.Number(int(value) if value == int(value) else value, self.over(c))

    def name(self, c: Children) -> s.Name:
        return s.Name(str(c[0]), self.token(c[0]))

    def member(self, c: Children) -> s.Member:
        return s.Member(self.word(c[0]), self.word(c[2]), self.over(c))

    def call(self, c: Children) -> s.Call:
        return s.Call(self.word(c[0]), tuple(nodes(c)), self.over(c))

    def list(self, c: Children) -> s.ListOf:
        return s.ListOf(tuple(nodes(c)), self.over(c))

    def parenthesis(self, c: Children) -> s.Expression:
        """The expression itself, with the parentheses inside its span."""
        of: s.Expression = c[1]
        return replace(of, span=self.over(c))

    # ---- Refusals

    def fault(self, span: Span, message: str, help_: str) -> NoReturn:
        raise Fault(Diagnostic("syntax", message, (Label(span),), help=help_))


def cut(mention: s.Mention, part: s.Word) -> Diagnostic:
    """An order names a part."""
    return Diagnostic(
        "syntax",
        f"an order runs whole operations; `{mention.kind}` stands for all of its parts",
        (Label(part.span),),
        help=f"leave out `.{part.text}`",
    )


def place(token: Token) -> tuple[int, int, int, int]:
    assert token.line and token.column and token.end_line and token.end_column
    return token.line, token.column, token.end_line, token.end_column


def string(token: Token) -> str:
    return str(token)[1:-1]


def nodes(children: Children, kind: Any = object) -> list[Any]:
    """The children that are nodes, without words and punctuation."""
    return [c for c in children if not isinstance(c, Token) and isinstance(c, kind)]


def token_is(child: Any, kind: str) -> bool:
    return isinstance(child, Token) and child.type == kind


def _first(child: Any) -> tuple[int, int]:
    if isinstance(child, Token):
        return place(child)[:2]
    if isinstance(child, tuple):
        return _first(child[0])
    line, column = child.span[1:3]
    return line, column


def _last(child: Any) -> tuple[int, int]:
    if isinstance(child, Token):
        return place(child)[2:]
    if isinstance(child, tuple):
        return _last(child[-1])
    line, column = child.span[3:]
    return line, column
