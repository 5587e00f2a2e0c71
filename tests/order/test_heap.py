"""The heap of events does what `heapq` does, and a schedule is the same however often the heap has
to grow."""

from heapq import heapify, heappop, heappush
from random import Random

import pytest

from stretto.compiler.order.engines.priorities import PriorityState, Start, prepare
from stretto.compiler.order.kernels import heap, jit, list_scheduler
from stretto.compiler.order.kernels.arrays import arrays_of
from stretto.compiler.order.kernels.instance import instance_of
from stretto.compiler.order.kernels.jit import ints
from stretto.compiler.problem.expand import expand
from tests.support.specs import linear


@pytest.mark.parametrize("seed", range(20))
def test_events_come_as_from_heapq(seed: int) -> None:
    random, size = Random(seed), 0
    times, ranks = ints([0]), ints([0])
    events: list[tuple[int, int]] = []
    for _ in range(300):
        if size and random.random() < 0.45:
            assert (times[0], ranks[0]) == heappop(events)
            heap.drop_first(times, ranks, size)
            size -= 1
            continue
        if size == len(times):
            times, ranks = jit.doubled(times), jit.doubled(ranks)
        event = random.randrange(9), random.randrange(4)
        heap.push(times, ranks, size, *event)
        heappush(events, event)
        size += 1
    rest = [(int(times[k]), int(ranks[k])) for k in range(size)]
    heapify(rest)
    assert [heappop(rest) for _ in range(size)] == sorted(events)


def scheduled(s: PriorityState) -> tuple[int, list[int]]:
    return int(list_scheduler.list_schedule(s.t, s.policy, s.list)), [
        int(u) for u in s.list.sequence
    ]


def test_a_schedule_is_the_same_when_the_heap_has_to_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long transfers: many results are on their way to ranks that wait for one of them."""
    instance = instance_of(expand(linear(6, 40, (2, 3, 1), transfer=300)))
    rooms = []

    def grown(values: list[int]) -> list[int]:
        rooms.append(len(values))
        return [*values, 0]

    def prepared() -> PriorityState:
        return prepare(instance, arrays_of(instance), 1, Start(4, 2, 32, False))

    before = jit.fast()
    jit.disengage()  # a plain loop, in which a function can be exchanged
    try:
        once = scheduled(prepared())
        monkeypatch.setattr(list_scheduler, "doubled", grown)
        assert scheduled(prepared()) == once
        assert len(rooms) > 2
    finally:
        monkeypatch.undo()
        if before:
            jit.engage()
