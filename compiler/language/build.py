"""From grammar rules to syntax nodes: `builders` gives the parser a function for every rule of
`grammar/pipe.lark`, from the rule's children (tokens, and nodes made before) to its node.

Almost all of them are one function, `fill`: every child goes to the first field of the node that is
still open and may hold it, by the field's type; words and punctuation that no field holds are left
out. The few rules whose children say more than their types do are written out below. Before a
node is made, `refusals` looks at what the grammar lets through and the language does not mean.
"""

import re
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import cache, partial
from keyword import iskeyword
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from lark import Token
from msgspec import Struct
from msgspec.structs import replace

from stretto.compiler.diagnostics.source import Span
from stretto.compiler.language import syntax as s
from stretto.compiler.language.refusals import (
    REFUSALS,
    Check,
    Children,
    Index,
    LayerIndex,
    Refusal,
    SliceIndex,
)
from stretto.compiler.units import UNITS

Make = Callable[[Children, Span], Any]


def builders(file: str) -> SimpleNamespace:
    """The builder of every rule, by the rule's name, for a file of this name. One that refuses its
    children raises `Refusal`."""
    built = {rule: _builder(make, REFUSALS.get(rule), file) for rule, make in MAKE.items()}
    return SimpleNamespace(**built, **dict.fromkeys(LISTS, _nodes))


def _builder(make: Make, refuse: Check | None, file: str) -> Callable[[Children], Any]:
    def build(children: Children) -> Any:
        first, last = _place(children[0]), _place(children[-1])
        span = Span(file, first.line, first.column, last.end_line, last.end_column)
        if refuse is not None:
            found = refuse(children, span)
            if found and (mistakes := tuple(found)):
                raise Refusal(mistakes)
        return make(children, span)

    return build


def _place(child: Any) -> Any:
    """What says where a child stands: a token, the span of a node, that of a list's last node."""
    if type(child) is tuple:
        return child[-1].span
    return child if type(child) is Token else child.span


# ---- Nodes by the types of their fields

Holds = dict[Any, Callable[[Any, str], Any] | None]
"""The types of nodes and tokens that a field may hold, and for each the function that makes the
field's value of such a child (None: the child is the value)."""


class Shape(NamedTuple):
    """The fields of a node by the children that may fill them."""

    takes: dict[Any, list[tuple[int, Callable[[Any, str], Any] | None]]]  # for a type its fields
    absent: list[Any]  # for a field its value where no child fills it
    many: list[int]  # the fields that are tuples of children


def fill(node: type[Struct], children: Children, span: Span) -> Any:
    """A node whose fields hold the children: each child the first that may and is still open."""
    takes, absent, many = shape(node)
    values = absent.copy()
    for i in many:
        values[i] = []
    for child in children:
        kind = child.type if type(child) is Token else type(child)
        for i, make in takes.get(kind, ()):
            held = values[i]
            if held is absent[i]:
                values[i] = child if make is None else make(child, span.file)
                break
            if type(held) is list:
                held += child if kind is tuple else (child,)
                break
    for i in many:
        values[i] = tuple(values[i])
    return node(*values, span)


@cache
def shape(node: type[Struct]) -> Shape:
    """The shape of a node, whose last field is its span; found out for the nodes that occur."""
    types = get_type_hints(node)
    found = Shape({}, [], [])
    for i, name in enumerate(node.__struct_fields__[:-1]):
        annotation = types[name]
        if get_origin(annotation) is tuple:
            holds = {**_holds(get_args(annotation)[0]), tuple: None}
            found.many.append(i)
        else:
            holds = _holds(annotation)
        found.absent.append(False if annotation is bool else None)
        for kind, make in holds.items():
            found.takes.setdefault(kind, []).append((i, make))
    return found


def _holds(annotation: Any) -> Holds:
    if get_origin(annotation) is Literal:
        return dict.fromkeys(map(str.upper, get_args(annotation)), _text)
    if annotation is bool:
        return {"QMARK": _true}
    if annotation is str:
        return {**dict.fromkeys(("NAME", "STAGES", "KIND", "COMPARE"), _text), "STRING": _quoted}
    if annotation is s.Word:
        return dict.fromkeys(("NAME", "FUNCTION", "STAGES", "MICROBATCHES"), _word)
    members = get_args(annotation)
    if not members:
        return {annotation: None}
    return {kind: make for member in members for kind, make in _holds(member).items()}


def _word(token: Token, file: str) -> s.Word:
    place: Any = (token.line, token.column, token.end_line, token.end_column)
    return s.Word(str(token), Span(file, *place))


def _text(token: Token, file: str) -> str:
    return str(token)


def _quoted(token: Token, file: str) -> str:
    return str(token)[1:-1]


def _true(token: Token, file: str) -> bool:
    return True


# ---- Rules whose children say more than their types


def _nodes(children: Children) -> tuple[Any, ...]:
    """The children that are nodes, without words and punctuation."""
    return tuple([c for c in children if type(c) is not Token])


def _pairs(nodes: Iterable[Any]) -> tuple[tuple[Any, Any], ...]:
    """The nodes two by two; what is left over is left out."""
    rest = iter(nodes)
    return tuple(zip(rest, rest, strict=False))


def _if(children: Children, span: Span) -> s.If:
    nodes = _nodes(children)
    return s.If(_pairs(nodes), nodes[-1] if len(nodes) % 2 else None, span)


def _conditional(children: Children, span: Span) -> s.Conditional:
    *cases, otherwise = _nodes(children)
    return s.Conditional(_pairs(cases), otherwise, span)


def _chain(children: Children, span: Span) -> s.Chain:
    rest = [(str(operator), of) for operator, of in _pairs(children[1:])]
    return s.Chain(children[0], tuple(rest), span)


def _number(children: Children, span: Span) -> s.Number:
    digits, *unit = children
    value = int(digits) if digits.isdecimal() else Fraction(digits)
    if unit:
        value *= UNITS[unit[0]]
    return s.Number(int(value) if value == int(value) else value, span, "".join(unit))


def _name(children: Children, span: Span) -> s.Name:
    return s.Name(str(children[0]), span)


def _parenthesis(children: Children, span: Span) -> s.Expression:
    """The expression itself, with the parentheses inside its span."""
    of: s.Expression = children[1]
    return replace(of, span=span)


def _mention(children: Children, span: Span) -> s.Mention:
    part = pipeline = None
    optional = False
    stage = microbatch = slice_ = layer = before = None
    for child in children[1:]:
        if type(child) is Index:
            stage, microbatch = (*child.places, None, None)[:2]
            slice_, layer = child.slice, child.layer
        elif child.type == "QMARK":
            optional = True
        elif child.type == "NAME" and before == ".":
            part = _word(child, span.file)
        elif child.type == "NAME":
            pipeline = _word(child, span.file)
        before = child
    kind: Any = str(children[0])
    return s.Mention(kind, optional, part, pipeline, stage, microbatch, slice_, layer, span)


def _index(children: Children, span: Span) -> Index:
    places = list(_nodes(children))
    layer = places.pop().of if type(places[-1]) is LayerIndex else None
    slice_ = places.pop().of if places and type(places[-1]) is SliceIndex else None
    return Index(tuple(places), slice_, layer, span)


def _slice(children: Children, span: Span) -> SliceIndex:
    return SliceIndex(children[1], span)


def _layer(children: Children, span: Span) -> LayerIndex:
    return LayerIndex(children[1], span)


def _activation(
    node: type[s.Activation | s.Kept], children: Children, span: Span
) -> s.Activation | s.Kept:
    """Of the two expressions the one in `[ ]` is the stage."""
    pipeline = stage = value = None
    ranges: tuple[s.Range, ...] = ()
    for child in children:
        if type(child) is Index:
            stage = child.places[0]
        elif type(child) is tuple:
            ranges = child
        elif type(child) is not Token:
            value = child
        elif child.type == "NAME":
            pipeline = _word(child, span.file)
    assert value is not None
    return node(pipeline, stage, value, ranges, span)


def _overlap(children: Children, span: Span) -> s.Overlap:
    kind: Any = str(children[3])
    return s.Overlap(kind, span)


# ---- The tables

LISTS = ("schedule", "costs", "ranges")  # rules that make a tuple of their nodes


def _rule(node: type[Struct]) -> str:
    """The rule that makes a node: `order_rank` for `OrderRank`."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", node.__name__).lower()
    return f"{name}_" if iskeyword(name) else name


def _is_node(value: Any) -> bool:
    if not isinstance(value, type) or not issubclass(value, Struct):
        return False
    return "span" in value.__struct_fields__ and value not in (s.Word, s.Chain)


NODES: dict[str, type[Struct]] = {_rule(x): x for x in vars(s).values() if _is_node(x)}
"""The node of every rule that is named after one: not of `sum` and `product`, which make chains."""

WRITTEN_OUT: dict[str, Make] = {
    "if_": _if,
    "conditional": _conditional,
    "sum": _chain,
    "product": _chain,
    "number": _number,
    "name": _name,  # as `fill` would, in a third of its time
    "parenthesis": _parenthesis,
    "mention": _mention,
    "exact": _mention,
    "index": _index,
    "slice": _slice,
    "layer": _layer,
    "activation": partial(_activation, s.Activation),
    "kept": partial(_activation, s.Kept),
    "overlap": _overlap,
}
MAKE: dict[str, Make] = {
    **{rule: partial(fill, node) for rule, node in NODES.items()},
    **WRITTEN_OUT,
}
