"""A training step of all ranks of `run_local` as one CUDA graph: captured once, then replayed, with
no Python and no waits of the host in between. In comes, on every rank, its executor and the batch;
out comes what replays the step on whatever the batch's tensors hold then.

The lists, streams and events are those of every step: only the streams begin behind that of the
capture and end before it. What the host would have to decide or to look at again in each step is
refused, by name, before anything is captured.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any, NamedTuple, NoReturn

from torch import Tensor, nn

from stretto.runtime.accelerator import Accelerator, DeviceGraph, marked
from stretto.runtime.containers import tensors
from stretto.runtime.errors import PipelineError
from stretto.runtime.executor import Around, Executor
from stretto.runtime.interpreter import Interpreter
from stretto.runtime.transport.local import Local

WARM_UP = 2  # steps before: shapes are agreed on in the first, libraries are ready after them


class CapturedStep(NamedTuple):
    """The step of all ranks, the same on each; `losses` are those of this rank's micro-batches,
    `batch` the tensors that are read, and `gradients` those of all ranks' parameters, which are
    written. They are good for as long as this is kept."""

    graph: DeviceGraph
    losses: Any
    batch: tuple[Tensor, ...]
    gradients: tuple[tuple[nn.Parameter, Tensor], ...]

    def replay(self) -> None:
        """The step of all ranks, on the caller's stream, with what the batch's tensors hold now;
        to be called once, not by each rank. Every `.grad` is replaced, also where it was set to
        None, and so are the losses: nothing is added to what was there before."""
        self.graph.replay()
        for parameter, gradient in self.gradients:
            parameter.grad = gradient


def capture(executor: Executor, *args: Any, target: Any = None, **kwargs: Any) -> CapturedStep:
    """Captures the training step that `executor.step(*args, target=target, **kwargs)` would take,
    after two such steps; all ranks of a `run_local` on a GPU call it. Gradients must be None, and
    so must outputs not be wanted.

    Raises `PipelineError` where the step cannot be captured: with what stands in the way, or the
    operation that cannot be issued without the host; the executor cannot be used after that.
    """
    device = _capturable(executor)
    batch = tuple(one for one in tensors((args, target, kwargs)) if isinstance(one, Tensor))
    _look_at_batch(executor, batch)

    def step(losses: Any = None) -> None:
        executor.step(*args, target=target, losses=losses, return_outputs=False, **kwargs)

    for _ in range(WARM_UP):
        step()
        _forget_gradients(executor)
    losses: Any = {} if len(executor.plan.graph.originals()) > 1 else []
    graphs: list[DeviceGraph] = []
    with _looked_at_before(executor):
        usual, executor.around = executor.around, _captured(executor, device, batch, graphs.append)
        try:
            step(losses)
        finally:
            executor.around = usual
    own = [(one, one.grad) for one in executor.parameters() if one.grad is not None]
    every = executor.context.transport.gather(own)  # type: ignore[attr-defined]
    return CapturedStep(graphs[0], losses, batch, tuple(chain.from_iterable(every)))


def _capturable(executor: Executor) -> Accelerator:
    """What the executor's ranks issue to. Raises `PipelineError` where its steps need the host."""
    device, spec = executor.context.transport.accelerator, executor.plan.spec
    if not isinstance(executor.context.transport, Local):
        _refuse("its ranks are processes: only those of one `run_local` are captured together")
    if device is None:
        _refuse("its ranks are on the CPU: give `run_local` the device of a GPU")
    if spec.ties:
        _refuse(f"`{spec.ties[0].name}` is tied, and the host compares its holders in each step")
    if spec.slices:
        _refuse("micro-batches are cut into slices, whose losses are put together after the list")
    if executor.watch is not None:
        _refuse("`on_nonfinite` has the host look at the losses of each step")
    if executor.preparation.check_messages:
        _refuse("`check_messages` has the host read a header before each message")
    if executor.scaler is not None:
        _refuse("a GradScaler changes the scale of the losses from step to step")
    if not isinstance(executor.batching.scale_loss, bool):
        _refuse("`scale_loss` weighs each micro-batch by its target, which the host looks at")
    for name, parameter in executor.named_parameters():
        if parameter.grad is not None:
            _refuse(f"`{name}` has a gradient, which a replay would replace: zero them, to None")
    return device


def _look_at_batch(executor: Executor, batch: tuple[Tensor, ...]) -> None:
    device = executor.context.transport.device
    for tensor in batch:
        if tensor.device.type != device.type:
            _refuse(
                f"the batch has {tuple(tensor.shape)} on {tensor.device}: a replay reads it where "
                f"it was, so it must be on {device}, and be written there before each replay"
            )


def _refuse(why: str) -> NoReturn:
    raise PipelineError(f"the step cannot be captured: {why}")


def _forget_gradients(executor: Executor) -> None:
    for parameter in executor.parameters():
        parameter.grad = None


@contextmanager
def _looked_at_before(executor: Executor) -> Iterator[None]:
    """While a step is captured, nobody asks where the device stands, which then runs nothing, or
    which random numbers parts draw, which was looked at in the steps before."""
    marks, executor.marks = executor.marks, None
    executor.activity.marks = None
    rules = {id(of.rules): of.rules for of in executor.context.chains.values()}
    before = [(one, one.random) for one in rules.values()]
    for one, _ in before:
        one.random = None
    try:
        yield
    finally:
        for one, random in before:
            one.random = random
        executor.marks = executor.activity.marks = marks


def _captured(
    executor: Executor,
    device: Accelerator,
    batch: tuple[Tensor, ...],
    give: Callable[[DeviceGraph], None],
) -> Around:
    """What is to be around this rank's list: the capture, which rank 0 begins and ends."""
    transport: Any = executor.context.transport

    @contextmanager
    def around(run: Interpreter) -> Iterator[None]:
        _reads_the_batch(run, batch)
        own = device.current()
        with ExitStack() as capturing:
            transport.gather(None)  # all have issued what is not to be captured
            begun = None
            if transport.rank == 0:
                begun = capturing.enter_context(device.capture())
            graph, origin = transport.gather(begun)[0]
            with device.on(own):
                own.wait_stream(origin)
                yield
            ends = transport.gather(marked(device, own))
            if transport.rank == 0:
                for end in ends:
                    origin.wait_event(end)
        transport.gather(None)  # from here on it is not captured any more
        give(graph)

    return around


def _reads_the_batch(run: Interpreter, batch: tuple[Tensor, ...]) -> None:
    """Raises `PipelineError` where a micro-batch is a copy: a replay would read that."""
    memory = {tensor.untyped_storage().data_ptr() for tensor in batch}
    for own in run.step.microbatches.values():
        for tensor in tensors((own.x, own.target, [one.kwargs for one in own.further.values()])):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in memory:
                _refuse("a micro-batch is a copy of a part of the batch: let it be a view of it")
