"""The unit in which a file writes its sizes, from its syntax alone, to tell them in it."""

from collections.abc import Iterable

from stretto.compiler.evaluation.expressions.names import leaves
from stretto.compiler.language import syntax as s

UNITS = ("", "KiB", "MiB", "GiB", "TiB")


def sizes_in(statements: Iterable[s.Statement | s.CostStatement]) -> str:
    """The largest unit that stands in an activation or a limit, or in what a name stands for there;
    empty where there is none."""
    named: dict[str, s.Expression] = {}
    rest: list[s.Expression] = []
    for statement in statements:
        match statement:
            case s.Let(name, value) | s.Param(name, value):
                named.setdefault(name.text, value)
            case s.Activation() | s.PartActivation() | s.Kept() | s.Limit():
                rest.append(statement.value)
    found = {""}
    while rest:
        for leaf in leaves(rest.pop()):
            if isinstance(leaf, s.Number):
                found.add(leaf.unit)
            elif isinstance(leaf, s.Name) and leaf.text in named:
                rest.append(named.pop(leaf.text))
    return max(found, key=UNITS.index)
