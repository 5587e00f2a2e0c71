"""Problem → Order: the author's order where it is complete, else an engine's."""

from dataclasses import dataclass

from stretto.compiler.diagnostics import Diagnostic, Label, Rejected
from stretto.compiler.order import Order
from stretto.compiler.order.written import incomplete, written
from stretto.compiler.problem import Problem


@dataclass(frozen=True, slots=True)
class Budget:
    """How much may be spent on finding an order: wall-clock seconds."""

    seconds: float = 30.0


def arrange(problem: Problem, budget: Budget) -> Order:
    """An Order of everything in the Problem. Raises `Rejected`: `not-yet`."""
    missing = incomplete(problem)
    if not missing:
        return written(problem)
    spec = problem.spec
    pipelines = tuple(Label(spec.spans[p.at]) for p in spec.pipelines)
    raise Rejected(
        [
            Diagnostic(
                code="not-yet",
                message="finding an order is not supported yet, and this file leaves it open on "
                + ("every rank" if len(missing) == spec.ranks else f"rank {missing[0]}"),
                labels=pipelines[:1],
                help="write an `order rank r { … }` that names every operation",
            )
        ]
    )
