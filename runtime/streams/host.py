"""The streams of a rank on the CPU: stream 0 runs on the thread that takes the step, every other
one on a thread of its own, under the same settings of torch. Where one fails, the others end at
their next instruction; one that waits inside a backend cannot be reached, and ends with the
process."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from stretto.compiler.program.program import Operation
from stretto.runtime.streams.settings import ThreadSettings

LOOK = 0.1  # seconds between looks at whether another stream has failed
GRACE = 3.0  # seconds in which the step's thread may notice that another stream has failed


class StreamFailed(Exception):
    """Another stream of this rank has failed; raised on those that would go on."""


class FirstFailure(NamedTuple):
    """The stream that failed first, and what it raised."""

    stream: int
    error: BaseException


class HostStreams:
    """One step of the streams called `names`. `awaited`: the computations that some stream awaits.
    Where another stream than the first has failed and the step's thread is in no place to notice,
    `stuck` is called with the failure, on the thread that failed; `waits` says whether the step's
    thread waits for other ranks, `timeout` how long (seconds) it may take to notice otherwise."""

    def __init__(self, names: Sequence[str], awaited: Iterable[Operation]):
        self.names = names
        self.events = {operation: threading.Event() for operation in awaited}
        self.failure: FirstFailure | None = None
        self.noticed = threading.Event()
        self.lock = threading.Lock()
        self.waits: Callable[[], bool] = lambda: False
        self.stuck: Callable[[FirstFailure], None] = lambda _: None
        self.timeout = GRACE

    def run(self, bodies: Sequence[Callable[[], None]]) -> None:
        """As `StreamsAtWork.run`."""
        settings = ThreadSettings.here()

        def work(stream: int) -> None:
            try:
                settings.run(bodies[stream])
            except BaseException as error:
                self._fail(stream, error)

        threads = [
            threading.Thread(target=work, args=(k,), name=f"stream {name}", daemon=True)
            for k, name in enumerate(self.names)
            if k
        ]
        for thread in threads:
            thread.start()
        try:
            bodies[0]()
            for thread in threads:
                while thread.is_alive() and self.failure is None:
                    thread.join(LOOK)
        except StreamFailed:
            pass
        except BaseException as error:
            self._fail(0, error)
        self.noticed.set()
        if self.failure is not None:
            raise self.failure.error

    def ended(self, operation: Operation) -> None:
        """As `StreamsAtWork.ended`."""
        event = self.events.get(operation)
        if event is not None:
            event.set()

    def await_(self, operation: Operation) -> None:
        """As `StreamsAtWork.await_`. Raises `StreamFailed`."""
        self.events[operation].wait()
        self.look()

    def look(self) -> None:
        """Raises `StreamFailed` where another stream has failed."""
        if self.failure is not None:
            raise StreamFailed

    def _fail(self, stream: int, error: BaseException) -> None:
        if isinstance(error, StreamFailed):
            return
        with self.lock:
            if self.failure is not None:
                return
            failure = self.failure = FirstFailure(stream, error)
        for event in self.events.values():  # who awaits one is to look
            event.set()
        begun = time.monotonic()
        while stream and not self.noticed.wait(LOOK):
            late = time.monotonic() - begun
            if late > max(GRACE, self.timeout) or (late > GRACE and self.waits()):
                self.stuck(failure)
                return
