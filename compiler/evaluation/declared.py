"""What the declarations of a file say (`Declarations`): values, pipelines as they were declared,
and statements that are evaluated when all of the file is known (`Deferred`)."""

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
    """A compiled `place s -> E`, whose environment holds the number of stages and the stage."""

    code: Callable[[list[Any]], int]
    size: int  # of the environment
    stages: int  # its slot
    stage: int  # its slot
    span: Span
    name: str  # of the stage
    plain: str | None  # the name that is the rank, where E is no more than that


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
        """Its name, with the place where it is declared."""
        return self.statement.name


class Deferred(NamedTuple):
    """A statement to be evaluated later, with the names that are known at its place."""

    statement: Any
    scope: Scope


class Declarations(Struct):
    """What the declarations say; None where something is missing or wrong."""

    name: str = ""
    ranks: int | None = None
    microbatches: int | None = None
    parameters: dict[str, str] = {}
    overridden: set[str] = set()
    """Parameters whose values came from the settings."""
    pipelines: list[PipelineDecl] = []
    by_name: dict[str, PipelineDecl] = {}
    """The same; of two with one name, which is reported, the first."""
    slices: int | None = 0
    split: s.SplitBackward | None = None
    parts: Deferred | None = None
    """`split F into …`."""
    part_names: dict[str, s.Part] = {}
    overlap: dict[str, Span] = {}
    costs: list[Deferred] = []
    transfer: Deferred | None = None
    limits: list[Deferred] = []
    reduce_gradients: Deferred | None = None
    unshard_weights: Deferred | None = None
    rules: list[Deferred] = []
    minimize: s.Minimize | None = None
    jitter: Fraction = Fraction(0)
    order: Deferred | None = None
    order_auto: s.OrderAuto | None = None
    failed_requirements: list[Diagnostic] = []
    """Requirements that do not hold."""
    stated_at: dict[str, Span] = {}
    """Where each statement stands that may stand once."""
