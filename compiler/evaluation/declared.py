"""What declarations leave for later: pipelines as they were declared, statements still to be
evaluated."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

from msgspec import Struct

from stretto.compiler.diagnostics.diagnostic import Diagnostic
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.expressions.scope import Scope
from stretto.compiler.evaluation.expressions.values import (
    Code,
    PipelineValue,
)
from stretto.compiler.language import syntax as s


class Placing(NamedTuple):
    """A compiled `place`: the values at hand are the number of stages and the stage."""

    code: Callable[[list[Any]], int]
    size: int
    stages: int
    stage: int
    span: Span
    name: str  # of the stage
    plain: str | None  # the rank, where it is but a name


class Draft(Struct):
    """A pipeline as it was declared."""

    value: PipelineValue
    statement: s.Pipeline
    said: dict[str, Span] = {}
    place: Placing | None = None
    original: "Draft | None" = None
    model: s.ModelName | None = None
    forward_only: bool = False
    feeds: list[tuple[s.Feeds, Code]] = []

    @property
    def name(self) -> s.Word:
        return self.statement.name


class Later(NamedTuple):
    """A statement to be evaluated later, with the names that are known at its place."""

    statement: Any
    scope: Scope


class Declared(Struct):
    """What the declarations said; None where something is missing or wrong."""

    name: str = ""
    ranks: int | None = None
    microbatches: int | None = None
    parameters: dict[str, str] = {}
    given: set[str] = set()
    """Parameters whose values came from outside."""
    pipelines: list[Draft] = []
    slices: int | None = 0
    split: s.SplitBackward | None = None
    overlap: dict[str, Span] = {}
    costs: list[Later] = []
    transfer: Later | None = None
    limits: list[Later] = []
    rules: list[Later] = []
    minimize: s.Minimize | None = None
    jitter: Fraction = Fraction(0)
    order: Later | None = None
    auto: s.OrderAuto | None = None
    failed: list[Diagnostic] = []
    """Requirements that do not hold."""
    stated: dict[str, Span] = {}
    """Where each statement that stands once was seen."""
