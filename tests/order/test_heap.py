"""The heap of events does what `heapq` does, and a schedule is the same however often the heap has
to grow."""

from heapq import heapify, heappop, heappush
from random import Random

import pytest

from stretto.compiler.order.engines.priorities import PriorityState, Start, prepare
from stretto.compiler.order.kernels import list_scheduler
from stretto.compiler.order.kernels.arrays import arrays_of
from stretto.compiler.order.kernels.heap import drop_first, push
from stretto.compiler.order.kernels.instance import instance_of
from stretto.compiler.order.kernels.jit import doubled, ints
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
            drop_first(times, ranks, size)
            size -= 1
            continue
        if size == len(times):
            times, ranks = doubled(times), doubled(ranks)
        event = random.randrange(9), random.randrange(4)
        push(times, ranks, size, *event)
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
    s = prepare(instance, arrays_of(instance), 1, Start(4, 2, 32, False))
    once = scheduled(s)
    rooms = []

    def grown(values: list[int]) -> list[int]:
        rooms.append(len(values))
        return [*values, 0]

    plain = {name: getattr(f, "py_func", f) for name, f in vars(list_scheduler).items()}
    for name, function in plain.items():
        if not name.startswith("__"):
            monkeypatch.setattr(list_scheduler, name, function)
    monkeypatch.setattr(list_scheduler, "doubled", grown)
    assert scheduled(s) == once
    assert len(rooms) > 2
