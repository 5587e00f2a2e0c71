"""Where a step of an order stands (`Site`), and what its compiled form finds in the environment."""

from collections.abc import Callable
from typing import NamedTuple

from stretto.compiler.evaluation.expressions.scope import Scope
from stretto.compiler.evaluation.expressions.values import Env
from stretto.compiler.evaluation.orders.nests import Count
from stretto.compiler.evaluation.orders.references import OrderContext

StepCode = Callable[[Env], None]
"""A compiled step: runs it for the rank whose environment it is given."""

RESOLVER, RANK = 0, 1  # of every environment the first two slots


class Site(NamedTuple):
    """What compiling a step needs to know: the file around the order, the names in scope, and the
    slot of the queue that lists the operations here; None where they are scheduled. `counts`: of
    the loops compiled so far, by their identity, how often they run; `looped`: whether the step
    stands in a loop."""

    context: OrderContext
    scope: Scope
    counts: dict[int, Count]
    queue: int | None = None
    looped: bool = False

    def inner(self) -> "Site":
        """The same place inside a block, whose names end with it."""
        return self._replace(scope=self.scope.inner())
