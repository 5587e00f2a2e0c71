"""What stands beside a schedule file: values for its parameters, costs of another file, limits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from stretto.compiler.language.syntax import CostFile

MOST_OPERATIONS = 4_000_000


@dataclass(frozen=True, slots=True)
class Settings:
    """`values` replace those of `ranks`, `microbatches` and `param` (`--set NAME=VALUE`); `costs`
    count as if they stood at the end of the schedule (`--costs FILE`); `max_ops` is the most
    operations that a step may have, and the most rounds that the loops of an order may make."""

    values: Mapping[str, Fraction | int] = field(default_factory=dict)
    costs: CostFile | None = None
    max_ops: int = MOST_OPERATIONS
