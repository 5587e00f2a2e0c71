"""The memory of one rank, followed through its list."""

from stretto.compiler.problem.spec import NONE, Spec
from stretto.compiler.proof.obligations import Obligation


class Memory:
    """Grains of activations that the rank holds, and their peak. `over_at` is the instruction that
    first takes more than the limit allows, -1 where none does, and `over` what is held then."""

    def __init__(self, spec: Spec, rank: int):
        limit = spec.limits[rank] if spec.limits else None
        self.limit = None if limit is None else limit.grains
        self.held = self.peak = 0
        self.over, self.over_at = 0, NONE

    def run(self, i: int, obligation: Obligation) -> None:
        """An operation runs: takes what it takes, gives back what it gives back."""
        if obligation.alloc:
            self.held += obligation.alloc
            if self.held > self.peak:
                self.peak = self.held
                if self.limit is not None and self.over_at == NONE and self.peak > self.limit:
                    self.over, self.over_at = self.peak, i
        self.held -= obligation.free
