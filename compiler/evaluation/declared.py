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


class CompiledPlace(NamedTuple):
    """A compiled `place`: the values at hand are the number of stages and the stage."""

    code: Callable[[list[Any]], int]
    size: int
    stages: int
    stage: int
    span: Span
    name: str  # of the stage
    plain: str | None  # the rank, where it is but a name


class PipelineDecl(Struct):
    """A pipeline as it was declared."""

    value: PipelineValue
    statement: s.Pipeline
    stated_at: dict[str, Span] = {}
    place: CompiledPlace | None = None
    original: "PipelineDecl | None" = None
    model: s.ModelName | None = None
    forward_only: bool = False
    feeds: list[tuple[s.Feeds, Code]] = []

    @property
    def name(self) -> s.Word:
        return self.statement.name


class Deferred(NamedTuple):
    """A statement to be evaluated later, with the names that are known at its place."""

    statement: Any
    scope: Scope


class Declarations(Struct):
    """What the declarations said; None where something is missing or wrong."""

    name: str = ""
    ranks: int | None = None
    microbatches: int | None = None
    parameters: dict[str, str] = {}
    overridden: set[str] = set()
    """Parameters whose values came from outside."""
    pipelines: list[PipelineDecl] = []
    slices: int | None = 0
    split: s.SplitBackward | None = None
    overlap: dict[str, Span] = {}
    costs: list[Deferred] = []
    transfer: Deferred | None = None
    limits: list[Deferred] = []
    rules: list[Deferred] = []
    minimize: s.Minimize | None = None
    jitter: Fraction = Fraction(0)
    order: Deferred | None = None
    order_auto: s.OrderAuto | None = None
    failed_requirements: list[Diagnostic] = []
    """Requirements that do not hold."""
    stated_at: dict[str, Span] = {}
    """Where each statement that stands once was seen."""
