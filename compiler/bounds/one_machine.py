"""B1: a rank runs one operation at a time.

For every set S of operations on one rank

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

from stretto.compiler.bounds.context import Finding, Subject

JacksonJob = tuple[int, int, int]
"""Head, ticks, tail (Carlier's head, body, tail)."""


class JobSet(NamedTuple):
    """The S of a bound: which jobs (by their index in the list), and its three terms."""

    jobs: list[int]
    head: int
    ticks: int
    tail: int

    @property
    def value(self) -> int:
        """The bound in ticks."""
        return self.head + self.ticks + self.tail


def find(subject: Subject) -> Finding:
    """Jackson's value of the operations of the rank `on`."""
    jobs = jobs_on(subject)
    value, _ = jackson(jobs)
    whole = bool(jobs) and all_jobs(jobs).value == value
    return Finding(value, subject, reason, whole)


def reason(subject: Subject) -> str:
    """Which operations fill the rank."""
    jobs = jobs_on(subject)
    whole = bool(jobs) and all_jobs(jobs).value == jackson(jobs)[0]
    return fills(subject, all_jobs(jobs) if whole else critical_set(jobs))


def fills(subject: Subject, group: JobSet) -> str:
    """The set of operations that fills a rank between what must come before and after, in words."""
    context = subject.context
    relaxed = context.relaxed
    own = [relaxed.classes[c] for c in relaxed.on(subject.on)]
    total = sum(op_class.size for op_class in own)
    if len(group.jobs) == total:
        pipelines = {op_class.pipeline for op_class in own}
        many = sum(relaxed.spec.pipelines[p].microbatches for p in pipelines)
        of = _count(many, "micro-batch", "micro-batches")
    else:
        of = f"{len(group.jobs)} of its {_count(total, 'operation', 'operations')}"
    inside = "" if subject.rank == subject.on else f" in the span of rank {subject.rank}"
    shared = ", overlapped as well as can be" if context.overlaps else ""
    return (
        f"rank {subject.on}: {context.units(group.ticks)} of work ({of}{shared}) after a head of "
        f"{context.units(group.head)} and before a tail of {context.units(group.tail)}{inside}"
    )


def _count(many: int, one: str, several: str) -> str:
    return f"{many} {one if many == 1 else several}"


def jobs_on(subject: Subject) -> list[JacksonJob]:
    """The operations of the rank `on`, class by class; for a span those that lie within it."""
    head, tail, ticks = subject.head, subject.tail, subject.context.busy(subject.share)
    return [
        job
        for c in subject.own
        for job in zip(head[c], ticks[c], tail[c], strict=True)
        if job[0] >= 0 and job[2] >= 0
    ]


def jackson(jobs: Sequence[JacksonJob]) -> tuple[int, int]:
    """The value of Jackson's preemptive schedule in ticks, and the tail of the operation that makes
    it; 0 where there are no jobs. O(n log n)."""
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
        tail, left = queue[0]
        if at < many and order[at][0] < time + left:
            queue[0] = tail, left - order[at][0] + time  # the first still: it has only shrunk
            time = order[at][0]
        else:
            heappop(queue)
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
