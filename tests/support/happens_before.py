"""A device that is none: the host computes at once, and what is checked is that a real one, whose
streams go on by themselves, would have had no choice but to come to the same.

Every stream has a vector clock: of each stream, how much of it is known to be over when this one
goes on. Recording an event takes the clock along, waiting for it joins the two. `watching` sees
every operation on tensors of the thread that it is entered on, forwards and backwards, and finds

- a read of what no wait has put before it, and a write beside a read or a write;
- memory that is let go of while another stream may still use it: its own stream may be given it
  again at once (torch's allocator), unless it was told of that use;
- a wait for an event that was not recorded, which a GPU would pass by.

That is independent of timing: whatever delays the streams had, no run is right by luck. And it
notes where the host looks at a number, for which it would have had to wait for the device.

`drop(site, stream, event)` loses waits on purpose: `site` is the function that asks for one, with
its line, and a lost wait must be found.
"""

import linecache
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from stretto.runtime.stage import private
from stretto.runtime.transport import local

LOOKS = {"item", "tolist", "cpu", "numpy", "equal", "nonzero", "is_nonzero"}
LOOKS |= {"__bool__", "__int__", "__float__", "__index__", "__contains__"}

Clock = dict[int, int]
Drop = Callable[[str, "CheckedStream", "CheckedEvent | CheckedStream"], bool]


class CheckedStream:
    """One stream: its number, its clock, and the thread that made it."""

    def __init__(self, device: "CheckedDevice", number: int):
        self.device, self.number = device, number
        self.thread = threading.current_thread()
        self.clock: Clock = {number: 0}

    def wait_event(self, event: "CheckedEvent") -> None:
        if event.clock is None:
            self.device.found.append(f"stream {self.number} waits for what was not recorded")
        self.device.join(self, event, event.clock or {})

    def wait_stream(self, other: "CheckedStream") -> None:
        self.device.join(self, other, other.clock)


class CheckedEvent:
    """A place in a stream. `over`: what `query` says."""

    def __init__(self, device: "CheckedDevice"):
        self.device = device
        self.stream: CheckedStream | None = None
        self.clock: Clock | None = None

    def record(self, stream: CheckedStream) -> None:
        with self.device.lock:
            self.stream, self.clock = stream, dict(stream.clock)
            self.place = stream.clock[stream.number]

    def query(self) -> bool:
        return self.device.is_over(self)


class Memory:
    """What is known of one piece of memory: where it was made, the last write, the reads since.
    Several storages have it where it was cloned lazily (`shared`); torch's allocator is then told
    nothing of other streams, without a word."""

    def __init__(self, tensor: Tensor):
        self.references = [StorageWeakRef(tensor.untyped_storage())]
        self.shared = False
        self.what = f"{tuple(tensor.shape)}"
        self.home: int | None = None  # the stream it was made on; None: before anybody watched
        self.written: tuple[int, int, str] | None = None  # stream, place, by what
        self.read: dict[int, tuple[int, str]] = {}
        self.told: set[int] = set()  # streams that the allocator knows of


class CheckedDevice:
    """As `stretto.runtime.accelerator.Accelerator`. `found` has what is wrong, `looks` where the
    host looked at numbers, by thread. `is_over` says what a query is answered."""

    def __init__(self, drop: Drop = lambda site, stream, event: False):
        self.drop = drop
        self.lock = threading.RLock()
        self.here = threading.local()
        self.streams: list[CheckedStream] = []
        self.found: list[str] = []
        self.looks: list[tuple[str, str]] = []
        self.waits: list[tuple[str, bool]] = []  # by whom, and whether it was new to the stream
        self.memory: dict[int, Memory] = {}
        self.told: list[Tensor] = []
        self.is_over: Callable[[CheckedEvent], bool] = lambda event: True
        self.graph: CheckedGraph | None = None  # that is being captured
        self.first = self.stream()

    # What the runtime asks for --------------------------------------------------------------------

    def current(self) -> CheckedStream:
        stack: list[CheckedStream] = getattr(self.here, "stack", [])
        return stack[-1] if stack else self.first

    def stream(self) -> CheckedStream:
        with self.lock:
            made = CheckedStream(self, len(self.streams))
            self.streams.append(made)
            return made

    @contextmanager
    def on(self, stream: CheckedStream) -> Iterator[None]:
        self.here.stack = [*getattr(self.here, "stack", []), stream]
        try:
            yield
        finally:
            self.here.stack = self.here.stack[:-1]

    def mark(self) -> CheckedEvent:
        return CheckedEvent(self)

    def uses(self, tensor: Tensor, stream: CheckedStream) -> None:
        with self.lock:
            known = self.memory.get(tensor.untyped_storage()._cdata)
            if known is None:
                known = self._known(tensor, None)
            if not known.shared and not self.drop("uses", stream, stream):
                known.told.add(stream.number)

    def synchronize(self) -> None:
        for stream in self.streams:
            for other in self.streams:
                self.join(stream, other, other.clock)

    @contextmanager
    def capture(self) -> Iterator[tuple["CheckedGraph", CheckedStream]]:
        """What is issued meanwhile must begin behind the capture's stream and end before it does,
        and the host must look at nothing."""
        origin = self.stream()
        with self.on(origin):
            self.ran("capture", [], [])
            self.graph = CheckedGraph(origin)
            try:
                yield self.graph, origin
            finally:
                graph, self.graph = self.graph, None
        for stream in self.streams:
            if graph.last.get(stream.number, 0) > origin.clock.get(stream.number, 0):
                self.found.append(f"stream {stream.number} is not joined when the capture ends")

    # What is checked ------------------------------------------------------------------------------

    def join(self, stream: CheckedStream, other: Any, clock: Clock) -> None:
        frame = sys._getframe(2)
        code = frame.f_code
        line = linecache.getline(code.co_filename, frame.f_lineno).strip()
        with self.lock:
            self._let_go()
            if self.drop(f"{code.co_name}: {line}", stream, other):
                return
            new = any(place > stream.clock.get(k, 0) for k, place in clock.items())
            self.waits.append((code.co_name, new))
            for k, place in clock.items():
                stream.clock[k] = max(stream.clock.get(k, 0), place)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Around what a thread computes."""
        with _Operations(self), _Looks(self):
            yield
        with self.lock:
            self._let_go()

    def ran(self, name: str, read: Iterable[Tensor], written: Iterable[Tensor]) -> None:
        """An operation was issued to the current stream. A tensor that nobody knows is made by
        it."""
        with self.lock:
            self._let_go()
            stream = self.current()
            stream.clock[stream.number] += 1
            if self.graph is not None:
                self.graph.given(self, stream, name)
            for tensor in read:
                self._touch(name, stream, self._known(tensor, None), writes=False)
            for tensor in written:
                memory = self._known(tensor, stream.number)
                if memory.shared and sum(not one.expired() for one in memory.references) > 1:
                    self.found.append(
                        f"{name} on stream {stream.number} has torch copy what was "
                        "cloned lazily, which it does outside of all streams"
                    )
                    memory = self.memory[tensor.untyped_storage()._cdata] = Memory(tensor)
                    memory.home = stream.number
                self._touch(name, stream, memory, writes=True)

    def waited(self) -> None:
        """The host has waited for the current stream: what it has done is behind all of it, and
        before whatever is issued from now on, to any stream."""
        with self.lock:
            for stream in self.streams:
                for k, place in self.current().clock.items():
                    stream.clock[k] = max(stream.clock.get(k, 0), place)

    def cloned_lazily(self, source: Tensor, clone: Tensor) -> None:
        """The two have one memory until somebody writes."""
        with self.lock:
            self._let_go()
            memory = self._known(source, None)
            memory.references.append(StorageWeakRef(clone.untyped_storage()))
            memory.shared = True
            self.memory[clone.untyped_storage()._cdata] = memory

    def _known(self, tensor: Tensor, home: int | None) -> Memory:
        key = tensor.untyped_storage()._cdata
        if key not in self.memory:
            self.memory[key] = Memory(tensor)
            self.memory[key].home = home
        return self.memory[key]

    def _touch(self, name: str, stream: CheckedStream, memory: Memory, writes: bool) -> None:
        me, clock = stream.number, stream.clock
        doing = f"{name} on stream {me} {'writes' if writes else 'reads'} {memory.what}"
        if memory.written is not None:
            other, place, by = memory.written
            if place > clock.get(other, 0):
                self.found.append(f"{doing}, beside {by} on stream {other}, which writes it")
        if writes:
            for other, (place, by) in memory.read.items():
                if place > clock.get(other, 0):
                    self.found.append(f"{doing}, beside {by} on stream {other}, which reads it")
            memory.written, memory.read = (me, clock[me], name), {}
        else:
            memory.read[me] = clock[me], name

    def _let_go(self) -> None:
        """What has been freed since: its memory is its stream's again."""
        gone = {
            id(memory): memory
            for memory in self.memory.values()
            if all(one.expired() for one in memory.references)
        }
        if gone:
            self.memory = {k: one for k, one in self.memory.items() if id(one) not in gone}
        for memory in gone.values():
            if memory.home is None:
                continue
            home = self.streams[memory.home]
            users = dict(memory.read)
            if memory.written is not None:
                users.setdefault(memory.written[0], memory.written[1:])
            for other, (place, by) in users.items():
                if place > home.clock.get(other, 0) and other not in memory.told:
                    self.found.append(
                        f"{memory.what} of stream {home.number} is let go of while {by} on stream "
                        f"{other} may still use it"
                    )


class CheckedGraph:
    """The operations of a capture, which run again when it is replayed: each with what it was
    given, its results written to where they were."""

    def __init__(self, origin: CheckedStream):
        self.origin, self.begun = origin, origin.clock[origin.number]
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.last: Clock = {}

    def given(self, device: CheckedDevice, stream: CheckedStream, name: str) -> None:
        """An operation was issued to the stream."""
        if stream.clock.get(self.origin.number, 0) < self.begun:
            device.found.append(f"{name} on stream {stream.number} is not part of the capture")
        self.last[stream.number] = stream.clock[stream.number]

    def replay(self) -> None:
        with torch.no_grad(), _disable_current_modes():  # the device's own affair
            for func, args, kwargs, made in self.calls:
                again = func(*args, **kwargs)
                for new, old in zip(tree_leaves(again), tree_leaves(made), strict=True):
                    if isinstance(old, Tensor) and new is not old:
                        old.copy_(new)


class _Operations(TorchDispatchMode):
    def __init__(self, device: CheckedDevice):
        super().__init__()
        self.device = device

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        made = func(*args, **(kwargs or {}))
        schema = func._schema
        if any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns):
            return made  # a view: nothing is read or written
        if func.overloadpacket is torch.ops.aten._lazy_clone:
            self.device.cloned_lazily(args[0], made)
            if self.device.graph is None:
                return made
        if self.device.graph is not None:
            self.device.graph.calls.append((func, args, kwargs or {}, made))
        names = [argument.name for argument in schema.arguments]
        values = {**dict(zip(names, args, strict=False)), **(kwargs or {})}
        changed = [
            tensor
            for argument in schema.arguments
            if argument.alias_info is not None and argument.alias_info.is_write
            for tensor in tree_leaves(values.get(argument.name))
            if isinstance(tensor, Tensor)
        ]
        there = {tensor.untyped_storage()._cdata for tensor in given}
        new = [
            tensor
            for tensor in tree_leaves(made)
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in there
        ]
        pure = {id(tensor) for tensor in changed}
        read = [tensor for tensor in given if id(tensor) not in pure]
        self.device.ran(func.overloadpacket.__name__, read, [*changed, *new])
        return made


class _Looks(TorchFunctionMode):
    def __init__(self, device: CheckedDevice):
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in LOOKS and self.device.graph is not None:
            self.device.found.append(f"the host looks at a number in a capture: {_site(name)}")
        if name in LOOKS:
            self.device.looks.append((threading.current_thread().name, _site(name)))
        found = func(*args, **(kwargs or {}))
        if name in LOOKS:
            self.device.waited()
        return found


def _site(name: str) -> str:
    """What looks, and the functions of the runtime that led there, innermost first."""
    frame: Any = sys._getframe(2)
    told = []
    while frame is not None:
        if "/runtime/" in frame.f_code.co_filename:
            told.append(frame.f_code.co_name)
        frame = frame.f_back
    return " < ".join([name, *told])


def settled(device: CheckedDevice) -> None:
    """Nothing was found. Raises `AssertionError` with what was."""
    assert not device.found, "\n".join(dict.fromkeys(device.found))


@contextmanager
def computing_on(device: CheckedDevice | None, lazy: Set[str] = frozenset()) -> Iterator[None]:
    """While this lasts, executors of ranks on threads are made for this device, or for none; `lazy`
    as in `stretto.runtime.stage.private`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "accelerator_of", lambda _: device)
        patch.setattr(private, "LAZY", lazy)
        yield
