"""How work is issued to the streams of a GPU, on a device that only counts: a stream is a list of
what it was given, an event the length of one. Nothing here has a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stretto.runtime import Executor, executor
from stretto.runtime.streams import device
from stretto.runtime.streams.device import DeviceStreams
from tests.support.part_plans import part_plan
from tests.support.part_stages import CutLayer
from tests.support.steps import executors
from tests.support.training import batch, one_process, spec_of, there


class CountedStream:
    def __init__(self, _: Any = None):
        self.given: list[Any] = []

    def wait_stream(self, other: "CountedStream") -> None:
        self.given.append((other, len(other.given)))

    def wait_event(self, event: "CountedEvent") -> None:
        assert event.stream is not None, "an event that was not recorded would not be waited for"
        self.given.append((event.stream, event.at))


class CountedEvent:
    def __init__(self) -> None:
        self.stream: CountedStream | None = None
        self.at = 0

    def record(self, stream: CountedStream) -> None:
        self.stream, self.at = stream, len(stream.given)


class CountedDevice(SimpleNamespace):
    """What `torch.cuda` is asked for. `notes` has each stream's computations."""

    def __init__(self) -> None:
        self.first = CountedStream()
        self.current = [self.first]
        super().__init__(Stream=CountedStream, Event=CountedEvent)

    def current_stream(self, _: Any = None) -> CountedStream:
        return self.current[-1]

    @contextmanager
    def stream(self, one: CountedStream) -> Iterator[None]:
        self.current.append(one)
        yield
        self.current.pop()


def before(one: CountedStream, at: int) -> set[tuple[int, int]]:
    """All places that come before this one: on its stream, or by waits."""
    seen: set[tuple[int, int]] = set()
    todo = [(one, at)]
    while todo:
        stream, end = todo.pop()
        for k in range(end):
            if (id(stream), k) not in seen:
                seen.add((id(stream), k))
                if type(stream.given[k]) is tuple:  # no operation: a wait
                    todo.append(stream.given[k])
    return seen


def test_all_is_issued_in_an_order_that_the_events_keep(monkeypatch: Any) -> None:
    plan = part_plan("there and back", ranks=1)
    cuda = CountedDevice()
    monkeypatch.setattr(device, "torch", SimpleNamespace(cuda=cuda))
    own = DeviceStreams(torch.device("cpu"), 2)
    ended, places = own.ended, dict[Any, tuple[CountedStream, int]]()

    def note(operation: Any) -> None:
        places[operation] = cuda.current[-1], len(cuda.current[-1].given)
        cuda.current[-1].given.append(operation)
        ended(operation)

    monkeypatch.setattr(own, "ended", note)
    monkeypatch.setattr(
        executor, "_give_streams", lambda _, run: setattr(run, "device", own), raising=True
    )
    spec = spec_of(plan)
    x, target = batch(spec)

    def body(made: Executor) -> list[Any]:
        made.step(x, target=target)
        return [(name, p.grad) for name, p in made.named_parameters()]

    (found,) = executors(plan, body, CutLayer)
    expected = one_process(spec, x, target, CutLayer)
    wanted = [g for s in range(2) for g in expected.gradients[0, s]]
    for (name, gradient), theirs in zip(found, wanted, strict=True):
        assert (gradient is None) == (theirs is None), name
        assert gradient is None or torch.allclose(gradient, there(theirs), atol=1e-6), name
    assert len(places) == 2 * 8 * (4 + 4 + 2) // 2
    for operation, (stream, at) in places.items():
        if operation.kind == "F" and operation.part:
            needed = operation._replace(part=operation.part - 1)
        elif operation.kind == "I" and operation.part < 3:
            needed = operation._replace(part=operation.part + 1)
        else:
            continue
        other, place = places[needed]
        assert (id(other), place) in before(stream, at), operation
    last = len(cuda.first.given)
    assert all((id(s), at) in before(cuda.first, last) for s, at in places.values())


def test_who_awaits_what_was_not_recorded_is_told(monkeypatch: Any) -> None:
    monkeypatch.setattr(device, "torch", SimpleNamespace(cuda=CountedDevice()))
    own = DeviceStreams(torch.device("cpu"), 2)
    with own.step([]), pytest.raises(KeyError):
        own.await_(("F", 0, 0, 0, -1, 0))  # type: ignore[arg-type]
