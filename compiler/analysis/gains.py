"""What would be gained: `Gain`, of a demand that is eased; `WorkMove`, of work between stages."""

from fractions import Fraction

from msgspec import Struct

from stretto.compiler.problem.spec import NONE, Spec


class Gain(Struct, frozen=True):
    """What would be gained if a demand were eased, found by solving again: the value of what is
    minimized, before and after, in the units of the file."""

    what: str
    before: Fraction
    after: Fraction


class WorkMove(Struct, frozen=True):
    """`percent` of the work of stage `source` of a pipeline (and of its copies) given to stage
    `target`, a neighbour: what is minimized before and after, in the units of the file, the order
    as it is. A smaller share gains less, a larger one no more."""

    pipeline: str
    source: int
    target: int
    percent: int
    before: Fraction
    after: Fraction

    def what(self, spec: Spec) -> str:
        """The move in words; the pipeline's name where there are several models."""
        models = [line for line in spec.pipelines if line.replicates == NONE]
        of = f" of {self.pipeline}" if len(models) > 1 else ""
        return (
            f"moving {self.percent} % of the work of stage {self.source}{of} to stage {self.target}"
        )
