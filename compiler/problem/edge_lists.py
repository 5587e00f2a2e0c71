"""The edge lists of a Problem under construction: `EdgeLists`."""

from collections.abc import Iterable, Sequence

from stretto.compiler.problem.problem import EdgeKind, Problem


class EdgeLists:
    """The edge lists of a Problem under construction."""

    def __init__(self, problem: Problem):
        self.tail, self.head, self.lag, self.why = (
            problem.tail,
            problem.head,
            problem.lag,
            problem.why,
        )

    def add(self, tail: Iterable[int], head: Sequence[int], why: EdgeKind, lag: int = 0) -> None:
        """One edge from each of `tail` to its counterpart in `head`."""
        self.tail.extend(tail)
        self.head.extend(head)
        self.lag.extend([lag] * len(head))
        self.why.extend([why] * len(head))
