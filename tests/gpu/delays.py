"""A device whose streams are late, each by itself: before every event that is recorded its stream
sleeps for a random while. What is not behind an event is then seen to be wrong."""

from random import Random
from typing import Any

import torch

from stretto.runtime.accelerator import Cuda

MOST = 200_000  # cycles: about a tenth of a millisecond


class LateCuda(Cuda):
    """A GPU with such streams, drawn from a seed."""

    def __init__(self, device: torch.device, seed: int):
        super().__init__(device)
        self.draw = Random(seed)

    def mark(self) -> Any:
        """As `Accelerator.mark`."""
        return LateEvent(self.draw.randrange(MOST))


class LateEvent:
    """An event that comes so many cycles late."""

    def __init__(self, late: int):
        self.event, self.late = torch.cuda.Event(), late

    def record(self, stream: Any) -> None:
        with torch.cuda.stream(stream):
            torch.cuda._sleep(self.late)
        self.event.record(stream)

    def wait(self, stream: Any) -> None:
        """What `Stream.wait_event` asks of an event."""
        stream.wait_event(self.event)

    def query(self) -> bool:
        return self.event.query()
