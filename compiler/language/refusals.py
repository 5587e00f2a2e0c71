"""What the grammar lets through and the language does not mean, each with what to type instead:
`REFUSALS` has for a rule of the grammar a check of the rule's children, made before their node is.
"""

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any

from lark import Token
from msgspec import Struct

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.language import syntax as s
from stretto.compiler.units import UNITS

MOST_DIGITS = 300

Children = list[Any]
Check = Callable[[Children, Span], Iterable[Diagnostic]]
"""From a rule's children and the span of them all to what is wrong with them."""


class Refusal(Exception):
    """A construct that cannot become a node; parsing goes on behind its statement."""

    def __init__(self, diagnostics: tuple[Diagnostic, ...]):
        self.diagnostics = diagnostics
        super().__init__()


class SliceIndex(Struct, frozen=True):
    """`slice E` inside an index; no node of the syntax has it."""

    of: s.Expression
    span: Span


class LayerIndex(Struct, frozen=True):
    """`layer E` inside an index; no node of the syntax has it."""

    of: s.Expression
    span: Span


class Index(Struct, frozen=True):
    """`[stage, microbatch, slice k, layer l]`, in whatever shape it was written; no node of the
    syntax has it."""

    places: tuple[s.Expression, ...]
    slice: s.Expression | None
    layer: s.Expression | None
    span: Span


def _syntax(span: Span, message: str, help_: str) -> Diagnostic:
    return Diagnostic("syntax", message, (Label(span),), help=help_)


def _span(token: Token, file: str) -> Span:
    place: Any = (token.line, token.column, token.end_line, token.end_column)
    return Span(file, *place)


# ---- Declarations


def _split_backward(children: Children, span: Span) -> Iterator[Diagnostic]:
    _, whole, _, first, _, second = children
    if whole == "F":
        yield _syntax(
            _span(first, span.file),
            f"`{first}` is an operation: parts have names of their own",
            "split F into attention, mlp",
        )
    elif [whole, first, second] != ["B", "I", "W"]:
        yield _syntax(span, "a backward splits into `I`, then `W`", "split B into I, W")


def _split_forward(children: Children, span: Span) -> Iterator[Diagnostic]:
    kind = children[1]
    if kind != "F":
        yield _syntax(
            _span(kind, span.file),
            f"only the forward is cut into named parts, not `{kind}`",
            "split F into …: `I` and `W` follow",
        )


def _part_group(children: Children, span: Span) -> Iterator[Diagnostic]:
    for child in children[3:]:
        if type(child) is s.PartGroup:
            yield _syntax(
                child.span,
                "groups of parts do not nest",
                "write the group's parts out, or multiply: `4 * (…)` for two times two",
            )
            return


def _overlap(children: Children, span: Span) -> Iterator[Diagnostic]:
    _, first, _, second = children
    if first != "F" or second not in ("B", "I"):
        yield _syntax(
            Span(span.file, first.line, first.column, *span[3:]),  # pyright: ignore[reportAttributeAccessIssue]
            f"`{first} | {second}` cannot overlap: a unit is an `F` with a `B` or an `I`",
            _instead(first, second),
        )


def _instead(first: object, second: object) -> str:
    """What to write for an overlap that there is not."""
    both = {str(first), str(second)}
    if both == {"F", "W"}:
        return (
            "let the `W` run by itself, in its place of the order; beside an `F` may run a whole "
            "backward (overlap F | B) or an input gradient (overlap F | I)"
        )
    if "F" in both and both & {"B", "I"}:
        return f"the `F` comes first: overlap F | {(both - {'F'}).pop()}"
    return "overlap F | B"


def _cost(children: Children, span: Span) -> Iterator[Diagnostic]:
    mentions = [child for child in children if type(child) is s.Mention]
    for mention in mentions:
        if mention.optional:
            yield _syntax(mention.span, "`?` has a meaning in order blocks only", "leave it out")
            return
    if len(mentions) == 1:
        return
    first, second = mentions
    if first.kind != "F" or second.kind not in ("B", "I"):
        yield _syntax(
            Span(span.file, *first.span[1:3], *second.span[3:]),
            f"`{first.kind} | {second.kind}` cannot overlap: a unit is an `F` with a `B` or an `I`",
            "cost F | B = …",
        )
        return
    for mention in mentions:
        if mention.microbatch or mention.slice or mention.part:
            yield _syntax(
                mention.span,
                "the cost of an overlapped unit may name pipelines and stages only",
                "the costs of `F` and `B` may differ by micro-batch; `F` and `B` in the unit's "
                "cost stand for them",
            )
            return


def _activation(children: Children, span: Span) -> Iterator[Diagnostic]:
    for child in children:
        if type(child) is Index and (len(child.places) != 1 or child.slice or child.layer):
            yield _syntax(child.span, "an activation belongs to one stage", "activation[stage] = …")


def _part_activation(children: Children, span: Span) -> Iterator[Diagnostic]:
    mention = children[1]
    if mention.optional:
        yield _syntax(mention.span, "`?` has a meaning in order blocks only", "leave it out")
    elif mention.kind != "F":
        yield _syntax(
            mention.span,
            f"only a forward leaves something in memory, not `{mention.kind}`",
            f"activation F.{mention.part.text} = …" if mention.part else "activation = …",
        )
    elif mention.part is None:
        yield _syntax(
            mention.span,
            "an activation belongs to a stage, or to a part of its forward",
            "activation = …, or activation F.PART = …",
        )
    elif mention.microbatch or mention.slice:
        yield _syntax(
            mention.span,
            "what a part leaves in memory is the same for all micro-batches",
            f"activation F.{mention.part.text}[stage, layer l] = …",
        )


def _kept(children: Children, span: Span) -> Iterator[Diagnostic]:
    kind = children[2]
    if kind != "I":
        yield _syntax(
            _span(kind, span.file),
            f"only `I` may free a part of an activation, not `{kind}`",
            "activation after I = …",
        )
    else:
        yield from _activation(children, span)


# ---- Order blocks


def _block(children: Children, span: Span) -> Iterator[Diagnostic]:
    for before, step in pairwise(children):
        if (
            not isinstance(before, Token | s.Repeat | s.Loop | s.If | s.QueueBlock)
            and type(step) is not Token
            and before.span.end_line == step.span.line
        ):
            yield Diagnostic(
                "missing-separator",
                "two steps of an order on one line need a `;` between them",
                (Label(step.span, "a new step begins here"),),
                help="put `;` or a line break before it",
            )


def _pair(children: Children, span: Span) -> Iterator[Diagnostic]:
    first, _, second = children
    for half in (first, second):
        if half.optional:
            yield _syntax(
                half.span,
                "a half of an overlapped pair cannot be optional",
                "leave out the `?`, or ask with `if` whether one is left",
            )
            return
        if type(half) is s.Mention and half.part:
            yield _syntax(
                half.span,
                "a pair is of whole operations, whose parts it puts into one sequence",
                "write the parts one after the other",
            )
            return


# ---- Operations and expressions


def _mention(children: Children, span: Span) -> Iterable[Diagnostic]:
    index = children[-1]
    if type(index) is not Index:
        return ()
    if index.layer and "." not in children:
        message, help_ = "only parts have a `layer`", f"{children[0]}.PART[…, layer l]"
        return (_syntax(index.layer.span, message, help_),)
    if len(index.places) <= 2:
        return ()
    message = "an operation has a stage, a micro-batch and at most a `slice` or a `layer`"
    named = f".{children[children.index('.') + 1]}" if "." in children else ""
    help_ = f"{children[0]}{named} main[stage, microbatch, {'layer l' if named else 'slice k'}]"
    return (_syntax(index.places[2].span, message, help_),)


def _index(children: Children, span: Span) -> Iterator[Diagnostic]:
    *before, last, _ = children  # what stands last, and `]`
    between = before[-2:-1] if type(last) is LayerIndex else []  # a slice may stand before a layer
    for child in before:
        if type(child) is LayerIndex:
            yield _syntax(child.span, "`layer` stands last inside `[ ]`", "F.PART[stage, layer l]")
            return
        if type(child) is SliceIndex and child not in between:
            yield _syntax(child.span, "`slice` stands last inside `[ ]`", "F[stage, slice k]")
            return


def _product(children: Children, span: Span) -> Iterator[Diagnostic]:
    for at in range(1, len(children), 2):
        before, sign, behind = children[at - 1 : at + 2]
        if (
            sign in ("/", "//")
            and type(before) is type(behind) is s.Number
            and behind.unit
            and not before.unit
        ):
            many = Fraction(behind.value) / UNITS[behind.unit]
            yield _syntax(
                Span(span.file, *before.span[1:3], *behind.span[3:]),
                f"a unit belongs to its number: this divides by {many} {behind.unit}",
                f"{before.value} {behind.unit} {sign} {many}",
            )
            return


def _number(children: Children, span: Span) -> Iterable[Diagnostic]:
    digits = children[0]
    _, _, power = digits.lower().partition("e")
    if len(digits) <= MOST_DIGITS and abs(int(power or 0)) <= MOST_DIGITS:
        return ()
    message = f"this number has {len(digits):,} digits"
    if len(digits) <= MOST_DIGITS:
        message = f"this number has an exponent of {int(power)}"
    return (_syntax(_span(digits, span.file), message, f"{MOST_DIGITS} are the most"),)


REFUSALS: dict[str, Check] = {
    "split_backward": _split_backward,
    "split_forward": _split_forward,
    "part_group": _part_group,
    "overlap": _overlap,
    "cost": _cost,
    "activation": _activation,
    "part_activation": _part_activation,
    "kept": _kept,
    "block": _block,
    "pair": _pair,
    "mention": _mention,
    "exact": _mention,
    "index": _index,
    "number": _number,
    "product": _product,
}
