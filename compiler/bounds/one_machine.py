"""B1. A rank runs one operation at a time. For every set S of operations on one rank

    end of the step >= min over S of head + sum over S of ticks + min over S of tail.

Proof. Nothing of S starts before the least head, then S takes at least the sum, and the least
tail follows the last of S. ∎

Jackson's preemptive schedule finds the largest of these bounds over all S: it runs at any time,
of the operations whose head is over, the one with the longest tail. Its value, the largest of
end + tail, is reached by an S without idle time before it whose tails are no shorter than that of
the operation that ends last. O(n log n).
(J. R. Jackson 1955; J. Carlier, The one-machine sequencing problem, 1982.)
"""

from collections.abc import Sequence
from heapq import heappop, heappush
from typing import NamedTuple

JacksonJob = tuple[int, int, int]
"""Head, ticks, tail."""


class JobSet(NamedTuple):
    """The S of a bound: which jobs (by their place in the list), and its three terms."""

    jobs: list[int]
    head: int
    ticks: int
    tail: int

    @property
    def value(self) -> int:
        return self.head + self.ticks + self.tail


def jackson(jobs: Sequence[JacksonJob]) -> tuple[int, int]:
    """The value of Jackson's preemptive schedule, and the tail of the operation that makes it; 0
    where there are no jobs."""
    queue: list[tuple[int, int]] = []  # -tail, ticks left
    time = value = critical_set = 0
    order = sorted(jobs)
    at, many = 0, len(order)
    while at < many or queue:
        if not queue:
            time = max(time, order[at][0])
        while at < many and order[at][0] <= time:
            heappush(queue, (-order[at][2], order[at][1]))
            at += 1
        tail, left = heappop(queue)
        if at < many and order[at][0] < time + left:
            heappush(queue, (tail, left - order[at][0] + time))
            time = order[at][0]
        else:
            time += left
            if time - tail > value:
                value, critical_set = time - tail, -tail
    return value, critical_set


def all_jobs(jobs: Sequence[JacksonJob]) -> JobSet:
    """The set of all jobs."""
    head, ticks, tail = zip(*jobs, strict=True)
    return JobSet(list(range(len(jobs))), min(head), sum(ticks), min(tail))


def critical_set(jobs: Sequence[JacksonJob]) -> JobSet:
    """The set S whose bound is Jackson's value: of the jobs with at least the critical tail, those
    that run without idle time until the last of them ends."""
    value, tail = jackson(jobs)
    chosen: list[int] = []
    head = end = 0
    for k in sorted(range(len(jobs)), key=lambda k: jobs[k][0]):
        if jobs[k][2] < tail:
            continue
        if jobs[k][0] > end or not chosen:
            chosen, head, end = [], jobs[k][0], jobs[k][0]
        chosen.append(k)
        end += jobs[k][1]
        if end + tail == value:
            return JobSet(chosen, head, end - head, tail)
    return JobSet([], 0, 0, 0)
