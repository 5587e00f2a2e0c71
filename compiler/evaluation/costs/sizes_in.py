"""The units in which a file writes its sizes, from its syntax alone: to tell sizes in the largest,
and to tell which have none."""

from collections.abc import Iterable, Mapping

from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.expressions.names import leaves
from stretto.compiler.language import syntax as s
from stretto.compiler.units import UNITS

SIZES = ("", *UNITS)  # from the smallest


def written_units(
    statements: Iterable[s.Statement | s.CostStatement], given: Mapping[str, str]
) -> dict[Span, str]:
    """For the value of every activation and limit, by its place, the largest unit that stands in it
    or in what a name stands for there; empty where there is none. `given`: the units of values that
    replace those of parameters."""
    named: dict[str, str] = {}
    found: dict[Span, str] = {}
    for statement in statements:
        match statement:
            case s.Param(name, _) if name.text in given:
                named.setdefault(name.text, given[name.text])
            case s.Let(name, value) | s.Param(name, value):
                named.setdefault(name.text, _unit(value, named))
            case s.Activation() | s.PartActivation() | s.Kept() | s.Limit():
                found[statement.value.span] = _unit(statement.value, named)
    return found


def sizes_in(units: Mapping[Span, str]) -> str:
    """The largest of the units; empty where there is none."""
    return max(units.values(), key=SIZES.index, default="")


def _unit(value: s.Expression, named: dict[str, str]) -> str:
    """The largest unit of an expression whose names have these."""
    found = {""}
    for leaf in leaves(value):
        if isinstance(leaf, s.Number):
            found.add(leaf.unit)
        elif isinstance(leaf, s.Name):
            found.add(named.get(leaf.text, ""))
    return max(found, key=SIZES.index)
