"""What the syntax alone says of names: where they are defined, which ones an expression has."""

from typing import Any

from stretto.compiler.diagnostics.source import Source, Span
from stretto.compiler.language import syntax as s


def definitions(schedule: s.Schedule) -> dict[str, Span]:
    """Where each name of the file's top level is defined."""
    found: dict[str, Span] = {}
    for statement in schedule.statements:
        match statement:
            case s.Ranks():
                found.setdefault("ranks", statement.span)
            case s.Microbatches():
                found.setdefault("microbatches", statement.span)
            case s.Param(name) | s.Let(name) | s.Pipeline(name):
                found.setdefault(name.text, name.span)
    return found


def local_names(schedule: s.Schedule) -> dict[str, tuple[Span, str]]:
    """Names that are known inside of one statement only (the stage of a `place`, the rank of the
    order): where each is defined, and in which kind of statement."""
    found: dict[str, tuple[Span, str]] = {}
    for statement in schedule.statements:
        match statement:
            case s.Pipeline(_, properties):
                for property_ in properties:
                    if isinstance(property_, s.Place):
                        found.setdefault(property_.stage.text, (property_.stage.span, "place"))
            case s.SplitForward(s.Word() as stage):
                found.setdefault(stage.text, (stage.span, "split F"))
            case s.OrderRank(rank):
                found.setdefault(rank.text, (rank.span, "order rank"))
    return found


def names_in(e: s.Expression) -> list[str]:
    """The names in an expression, in the order of the text."""
    return [
        leaf.of.text if isinstance(leaf, s.Member) else leaf.text
        for leaf in leaves(e)
        if not isinstance(leaf, s.Number)
    ]


def leaves(e: s.Expression) -> list[s.Name | s.Member | s.Number]:
    """The names, numbers and members of pipelines in an expression, in the order of the text."""
    found: list[s.Name | s.Member | s.Number] = []
    rest: list[Any] = [e]
    while rest:
        node = rest.pop()
        match node:
            case s.Name() | s.Member() | s.Number():
                found.append(node)
            case str():
                pass
            case tuple():
                rest += reversed(node)
            case s.Call(_, arguments):
                rest += reversed(arguments)
            case s.List(items):
                rest += reversed(items)
            case s.Subscript(of, indices):
                rest += [*reversed(indices), of]
            case s.Negative(of) | s.Not(of):
                rest.append(of)
            case s.Chain(first, others):
                rest += [*reversed(others), first]
            case s.Comparison(left, _, right):
                rest += [right, left]
            case s.Both(operands) | s.Either(operands):
                rest += reversed(operands)
            case s.Conditional(cases, otherwise):
                rest += [otherwise, *reversed(cases)]
    return found


def text_of(source: Source, span: Span) -> str:
    """The text that a span covers."""
    lines = source.text.split("\n")[span.line - 1 : span.end_line]
    lines[-1] = lines[-1][: span.end_column - 1]
    lines[0] = lines[0][span.column - 1 :]
    return "\n".join(lines)
