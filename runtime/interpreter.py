"""One run of one instruction list. In comes a rank's program and the step's micro-batches; out come
gradients in the modules, outputs and losses. Two tables say what runs: `INSTRUCTIONS` by the type
of an instruction, `OPERATIONS` by the kind of a computation. Each does what `docs/instructions.md`
says, no more; nothing is decided here. A new kind of either is a row in its table."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from stretto.compiler.program.program import (
    NONE,
    Await,
    BeginReduction,
    BeginUnshard,
    Compute,
    Free,
    Operation,
    Receive,
    Reduce,
    Send,
    Wait,
)
from stretto.runtime.batch import mapped, signature, tensors
from stretto.runtime.bound import BoundCompute, BoundMessage, bound_instructions
from stretto.runtime.data_parallel.synchronization import DataParallel
from stretto.runtime.edges import StepEdges
from stretto.runtime.errors import PipelineError
from stretto.runtime.mailbox import Mailbox
from stretto.runtime.microbatches import NOTHING, PipelineMicrobatches
from stretto.runtime.rank_context import RankContext
from stretto.runtime.rank_program import RankProgram
from stretto.runtime.replicas import Replicas
from stretto.runtime.stage.engine import MADE
from stretto.runtime.stage.judge import Judging
from stretto.runtime.stage.overlapped import OverlappedPair
from stretto.runtime.stage.part_chain import PartChain
from stretto.runtime.stage.private import Versions
from stretto.runtime.stage.stage_module import ForwardInput, ForwardOutput, Result
from stretto.runtime.streams.device import DeviceStreams
from stretto.runtime.streams.host import HostStreams
from stretto.runtime.streams.marks import DeviceMarks
from stretto.runtime.tensor_spec import dtype_name
from stretto.runtime.topology import StageId, shown
from stretto.runtime.whereabouts import AT, MOST

UNJUDGED = Judging()


class StepInput(NamedTuple):
    """What one step runs on: the micro-batches by pipeline, what the ranks know of the tensors that
    travel, this rank's messages, and whether outputs are kept for the user."""

    microbatches: dict[int, PipelineMicrobatches]
    edges: StepEdges
    mailbox: Mailbox
    keep_outputs: bool


class BoundProgram(NamedTuple):
    """A rank's program, the same for all steps: by the index of an instruction what it is `about`
    (`bound_instructions`), and what runs it, given the state of the step."""

    program: RankProgram
    about: list[Any]
    issue: list[Callable[["Interpreter"], None]]


def bound_program(context: RankContext, program: RankProgram) -> BoundProgram:
    """The program with what its instructions work on."""
    about = bound_instructions(context, program)
    pairs = zip(program.instructions, about, strict=True)
    return BoundProgram(
        program, about, [partial(INSTRUCTIONS[type(one)], what) for one, what in pairs]
    )


class HandedOn(NamedTuple):
    """An operation whose output is read by others, and the output as it was."""

    operation: Operation
    versions: Versions

    def check(self, run: "Interpreter") -> None:
        """Raises `PipelineError` where the output has been written on."""
        if self.versions.changed():
            raise PipelineError(
                f"the output of `{shown(run.context.plan.spec, self.operation)}` was changed in "
                "place after the stage had handed it on: does the module return a buffer that it "
                "writes on later? Let it return a copy of that, `.clone()`"
            )


class Interpreter:
    """The state of one step on one rank: what the slots hold, and the results of overlapped
    backwards that ran ahead, by instruction. `handed_on`, by slot, and
    `returned` are stages' outputs, on which nobody may write any more. `outputs`, `losses` and
    `metrics` are by pipeline and micro-batch. `at` is the index of the running instruction; the
    watchdog reads it. `handed`: where a computation has failed, in words, what it was given.

    Where there are `streams`, each runs by a view of its own (`views`), a copy that shares all but
    its number, its place and what failed there."""

    def __init__(
        self,
        context: RankContext,
        replicas: Replicas,
        data_parallel: DataParallel,
        bound: BoundProgram,
        step: StepInput,
    ):
        self.data_parallel = data_parallel
        self.context, self.replicas, self.step = context, replicas, step
        self.program = program = bound.program
        self.train = program.name == "train"
        self.bound = bound
        self.slots: dict[int, Result] = {}
        self.ran_ahead: dict[int, Result] = {}
        self.handed_on: dict[int, HandedOn] = {}
        self.outputs: dict[int, dict[int, Any]] = {}
        self.returned: list[HandedOn] = []
        self.losses: dict[int, dict[int, Tensor]] = {}
        self.metrics: dict[int, dict[int, Any]] = {}
        self.note: Callable[[Operation, Any], None] | None = None  # is given each stage's output
        self.at, self.handed = 0, ""
        self.stream, self.views = 0, [self]
        self.host: HostStreams | None = None
        self.device: DeviceStreams | None = None
        self.marks: DeviceMarks | None = None
        self.many_streams = bool(program.streams)

    @property
    def many(self) -> int:
        """How many streams there are."""
        return max(1, len(self.program.streams))

    def do(self, at: int) -> None:
        """Runs instruction `at`."""
        self.at = self.context.page.numbers[AT + min(self.stream, MOST - 1)] = at
        self.bound.issue[at](self)

    def ended(self, operation: Operation) -> None:
        """Tells streams that await the operation."""
        if self.host is not None:
            self.host.ended(operation)
        elif self.device is not None:
            self.device.ended(operation)

    def lend(self, *values: Any) -> None:
        """What is about to be used on this stream, wherever it was made."""
        if self.device is not None:
            self.device.lend(values)

    def chain(self, operation: Operation) -> PartChain:
        """The parts of the stage that the operation is of."""
        return self.context.chains[StageId(*operation[1:3])]

    def gradients(self, own: BoundCompute) -> Result:
        """The gradients of the stage's outputs, for this backward: of several stages that use them,
        the sum; None where none of them has one."""
        if own.single:
            return self.slots[own.gradients[0].slot]
        edges, stage = self.step.edges, own.stage.stage
        parts = [self.slots[slot][edges.gradients_for(stage, made)] for slot, made in own.gradients]
        if not parts:
            return ()
        total = parts[0]
        for part in parts[1:]:
            total = tuple(_added(a, b) for a, b in zip(total, part, strict=True))
        return total


def _added(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b


# Instructions -----------------------------------------------------------------------------------


def compute(own: BoundCompute, run: Interpreter) -> None:
    """Runs the operation; its result is left in slot `writes`."""
    try:
        result = OPERATIONS[own.operation.kind](run, own)
    except Exception:
        run.handed = _handed(run, own.operation)
        raise
    if own.writes != NONE:
        run.slots[own.writes] = result
        if own.hands_on:
            made: Any = result  # outputs, all of which are there
            run.handed_on[own.writes] = MADE(HandedOn, (own.operation, Versions(made)))
    if run.many_streams:
        run.ended(own.operation)


def receive(message: BoundMessage, run: Interpreter) -> None:
    """Posts a receive into new buffers, which are the slot's once they have arrived."""
    run.step.mailbox.receive(message)


def send(message: BoundMessage, run: Interpreter) -> None:
    """Begins to send what is in the slot."""
    run.step.mailbox.send(message, run.slots[message.slot])


def wait(slot: int, run: Interpreter) -> None:
    """Waits for every message begun on the slot."""
    arrived = run.step.mailbox.wait(slot, run.at)
    if arrived is not None:
        run.slots[slot] = arrived


def free(slot: int, run: Interpreter) -> None:
    """Lets go of what is in the slot."""
    if made := run.handed_on.pop(slot, None):
        made.check(run)
        if run.step.mailbox.kept:
            run.step.mailbox.keep_unchanged(slot, lambda: made.check(run))
    del run.slots[slot]


def reduce(reductions: tuple[int, ...], run: Interpreter) -> None:
    """Sums the gradients of the copies of a stage."""
    run.replicas.sum(*reductions)


def reduce_gradients(instruction: BeginReduction, run: Interpreter) -> None:
    """Begins to average a stage's gradients over its replicas."""
    run.data_parallel.begin(StageId(instruction.pipeline, instruction.stage))


def unshard_weights(instruction: BeginUnshard, run: Interpreter) -> None:
    """Begins to gather a stage's weights."""
    run.data_parallel.gather(StageId(instruction.pipeline, instruction.stage))


def await_(instruction: Await, run: Interpreter) -> None:
    """Waits until the computation of another stream has ended."""
    streams = run.host or run.device
    assert streams is not None
    streams.await_(instruction.operation)


INSTRUCTIONS: dict[type, Callable[[Any, Interpreter], None]] = {
    Compute: compute,
    Receive: receive,
    Send: send,
    Wait: wait,
    Free: free,
    Reduce: reduce,
    BeginReduction: reduce_gradients,
    BeginUnshard: unshard_weights,
    Await: await_,
}
"""By the type of an instruction what runs it; it is given what the instruction is about
(`bound_instructions`)."""


# Operations -------------------------------------------------------------------------------------


def forward(run: Interpreter, own: BoundCompute) -> Result:
    """F: the stage's outputs for other stages. The forward of an overlapped unit runs the unit's
    backward too, where the modules' class offers one call for both."""
    if own.operation.part != NONE:
        return part_forward(run, own)
    given = _forward_input(run, own)
    if own.partner != NONE:
        other = run.bound.about[own.partner]
        pair = OverlappedPair(own.stage, given, other.stage, other.operation.microbatch)
        gradients = run.gradients(other) if other.operation.kind == "B" else ()
        if other.operation.kind == "B" and pair.is_one_call(gradients):
            made, run.ran_ahead[own.partner] = pair.run(gradients)
            return _kept(run, own, made)
    return _kept(run, own, own.stage.forward(given))


def part_forward(run: Interpreter, own: BoundCompute) -> Result:
    """F of a part: the first one takes what the stage is given, the last one has its outputs."""
    operation = own.operation
    chain, microbatch, part = run.chain(operation), operation.microbatch, operation.part
    if part == 0:
        chain.begin(_forward_input(run, own))
    run.lend(chain.handed[microbatch].args, chain.handed[microbatch].kwargs)
    made = chain.forward(microbatch, part)
    return () if made is None else _kept(run, own, made)


def part_backward(run: Interpreter, own: BoundCompute, split: bool) -> Result:
    """I or B of a part: the last one takes the gradients of the stage's outputs, the first one has
    those of what the stage was given. `split`: it leaves the weights to a W."""
    operation = own.operation
    chain, microbatch, part = run.chain(operation), operation.microbatch, operation.part
    last = part == len(chain.parts) - 1
    gradients = run.gradients(own) if last else chain.above[microbatch]
    run.lend(gradients)
    backward = chain.input_gradient if split else chain.backward
    return backward(microbatch, part, gradients) or ()


def backward(run: Interpreter, own: BoundCompute) -> Result:
    """B: the gradients of what the stage was given, and those of its weights."""
    if own.operation.part != NONE:
        return part_backward(run, own, False)
    if run.ran_ahead and (done := run.ran_ahead.pop(run.at, None)) is not None:
        return done
    found: Result = own.stage.backward(own.operation.microbatch, run.gradients(own))
    return found


def input_gradient(run: Interpreter, own: BoundCompute) -> Result:
    """I: the gradients of what the stage was given. Of a part that has no W all gradients."""
    _, p, s, m, _, part = own.operation
    if part != NONE:
        return part_backward(run, own, run.context.plan.spec.parts[p][s][part].stream == 0)
    found: Result = own.stage.input_gradient(m, run.gradients(own))
    return found


def weight_gradient(run: Interpreter, own: BoundCompute) -> Result:
    """W: the gradients of the stage's weights, or of one part's."""
    operation = own.operation
    if operation.part != NONE:
        run.chain(operation).weight_gradient(operation.microbatch, operation.part)
        return ()
    own.stage.weight_gradient(operation.microbatch)
    return ()


OPERATIONS: dict[str, Callable[[Interpreter, BoundCompute], Result]] = {
    "F": forward,
    "B": backward,
    "I": input_gradient,
    "W": weight_gradient,
}
"""By the kind of an operation what computes it; the result is empty where nobody needs it."""


def _forward_input(run: Interpreter, own: BoundCompute) -> ForwardInput:
    operation, learn = own.operation, own.learns
    s, m = operation.stage, operation.microbatch
    every, edges, mailbox, _ = run.step
    batch = every.get(operation.pipeline, NOTHING)
    given: list[Tensor] = []
    for slot, made in own.inputs:
        # What is still being sent keeps its memory to itself, whatever the module does.
        leaving = slot in mailbox.leaving or slot in mailbox.kept
        for tensor, spec in zip(run.slots[slot], edges.of_result(made), strict=True):
            leaf: Any = tensor
            if leaving:
                leaf = leaf.clone()
            elif not own.alone:
                leaf = leaf.detach()
            given.append(leaf.requires_grad_() if learn and spec.gradient else leaf)
    further = batch.of_stage(s, m, len(given)) if s == 0 or batch.further else None
    target = batch.target[m] if own.judged and batch.target else None
    judging = batch.judging[m] if batch.judging else UNJUDGED
    return MADE(ForwardInput, (m, further, tuple(given), target, learn, judging))  # type: ignore[no-any-return]


def _kept(run: Interpreter, own: BoundCompute, made: ForwardOutput) -> Result:
    """Keeps loss and output for the user; returns what goes to other stages, without its graph."""
    stage, result = own.stage, made.result
    returned = stage.returns and run.step.keep_outputs
    if made.loss is not None or returned or run.note is not None:
        _keep(run, own.operation, made, returned)
    if not stage.sends:
        return ()
    run.step.edges.settle(own.operation, result, own.learns)
    if len(result) == 1:
        return (result[0].detach(),)
    return tuple([tensor.detach() for tensor in result])


def _keep(run: Interpreter, operation: Operation, made: ForwardOutput, returned: bool) -> None:
    _, p, _, m, *_ = operation
    if made.loss is not None:
        run.losses.setdefault(p, {})[m] = made.loss
        run.metrics.setdefault(p, {})[m] = made.metrics
    if returned or run.note is not None:
        output = mapped(Tensor.detach, made.output)
        if run.note is not None:
            run.note(operation, output)
        if returned:
            run.outputs.setdefault(p, {})[m] = output
            run.returned.append(HandedOn(operation, Versions(tensors(output))))


def _handed(run: Interpreter, operation: Operation) -> str:
    """`, on (2, 17) float32 that ``F main[0, 3]`` of rank 0 has made,`: what the computation that
    has failed was given, by the user or by other stages; empty where nothing was."""
    plan, told = run.context.plan, []
    kind, p, s, m, *_ = operation
    own = run.step.microbatches.get(p, NOTHING)
    if kind == "F" and s == 0 and own.x:
        told.append(f"x of {signature(own.x[m])}")
    for slot, made in run.program.reads[run.at]:
        tensors = [t for t in run.slots.get(slot, ()) if t is not None]
        sizes = ", ".join(f"{tuple(t.shape)} {dtype_name(t.dtype)}" for t in tensors) or "nothing"
        rank = plan.graph.topology.rank_of(StageId(*made[1:3]))
        told.append(f"{sizes} that `{shown(plan.spec, made)}` of rank {rank} has made")
    return f", on {' and '.join(told)}," if told else ""
