"""One run of one instruction list. In comes a rank's program and the step's micro-batches; out come
gradients in the modules, outputs and losses. Two tables say what runs: `INSTRUCTIONS` by the type
of an instruction, `OPERATIONS` by the kind of a computation. Each does what `docs/instructions.md`
says, no more; nothing is decided here. A new kind of either is a row in its table."""

from collections.abc import Callable
from copy import copy
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
from stretto.compiler.program.topology import KINDS
from stretto.runtime.batch import signature, tensors
from stretto.runtime.collectives import as_stream_group
from stretto.runtime.data_parallel.synchronization import DataParallel
from stretto.runtime.edges import StepEdges
from stretto.runtime.errors import PipelineError
from stretto.runtime.mailbox import Mailbox
from stretto.runtime.microbatches import NOTHING, PipelineMicrobatches
from stretto.runtime.rank_context import RankContext
from stretto.runtime.rank_program import RankProgram
from stretto.runtime.replicas import Replicas
from stretto.runtime.stage.judge import Judging
from stretto.runtime.stage.overlapped import OverlappedPair
from stretto.runtime.stage.part_chain import PartChain
from stretto.runtime.stage.private import Versions
from stretto.runtime.stage.stage_module import ForwardInput, ForwardOutput, Result, StageModule
from stretto.runtime.streams.device import DeviceStreams
from stretto.runtime.streams.host import HostStreams
from stretto.runtime.tensor_spec import dtype_name
from stretto.runtime.topology import StageId, shown
from stretto.runtime.whereabouts import AT, MOST


class StepInput(NamedTuple):
    """What one step runs on: the micro-batches by pipeline, what the ranks know of the tensors that
    travel, this rank's messages, and whether outputs are kept for the user."""

    microbatches: dict[int, PipelineMicrobatches]
    edges: StepEdges
    mailbox: Mailbox
    keep_outputs: bool


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
    """The state of one step on one rank: what the slots hold, which operations made it, and the
    results of overlapped backwards that ran ahead, by instruction. `handed_on`, by slot, and
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
        program: RankProgram,
        step: StepInput,
    ):
        self.data_parallel = data_parallel
        self.context, self.replicas, self.program, self.step = context, replicas, program, step
        self.train = program.name == "train"
        self.slots: dict[int, Result] = {}
        self.made: dict[int, Operation] = {}
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

    @property
    def many(self) -> int:
        """How many streams there are."""
        return max(1, len(self.program.streams))

    def run(self) -> None:
        """Runs the list: without streams from top to bottom, else each stream its part of it.
        Raises what the modules, the loss and the transport raise."""
        self.data_parallel.prepare(self.train)
        if self.host is not None:
            side_by_side(self, self.host)
        elif self.device is not None:
            issued(self, self.device)
        else:
            one_by_one(self)
        page = self.context.page.numbers
        for kept in self.step.mailbox.unsent:
            self.at = page[AT] = kept.at
            kept.finish()
        for made in self.returned:
            made.check(self)
        self.at = len(self.program.instructions)
        self.step.edges.complete()
        self.data_parallel.finish(self.train)

    def do(self, at: int) -> None:
        """Runs instruction `at`."""
        self.at = self.context.page.numbers[AT + min(self.stream, MOST - 1)] = at
        instruction = self.program.instructions[at]
        INSTRUCTIONS[type(instruction)](self, instruction)

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

    def stage(self, operation: Operation) -> StageModule:
        """The stage of this rank that the operation is of."""
        return self.context.stages[StageId(*operation[1:3])]

    def held(self, at: int) -> dict[tuple[int, ...], Result]:
        """What is in the slots that computation `at` reads, by the stage that made it."""
        return {made[1:3]: self.slots[slot] for slot, made in self.program.reads[at]}

    def gradients(self, operation: Operation, at: int) -> Result:
        """The gradients of the stage's outputs, for the backward at instruction `at`: of several
        stages that use them, the sum; None where none of them has one."""
        stage, held = self.stage(operation), self.held(at)
        edges, microbatch = self.step.edges, operation.microbatch
        parts = [
            held[user][edges.gradients_for(stage.stage, user, microbatch)]
            for user in stage.gradient_senders
        ]
        if len(parts) <= 1:
            return parts[0] if parts else ()
        total = parts[0]
        for part in parts[1:]:
            total = tuple(_added(a, b) for a, b in zip(total, part, strict=True))
        return total


def _added(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b


# Ways to run a list -----------------------------------------------------------------------------


def one_by_one(run: Interpreter) -> None:
    """Without streams: from top to bottom."""
    before, behind = run.data_parallel.actions(run.program)
    with as_stream_group(run.context.group_of(0)):
        for at in range(len(run.program.instructions)):
            for act in before.get(at, ()):
                act()
            run.do(at)
            for act in behind.get(at, ()):
                act()


def side_by_side(run: Interpreter, host: HostStreams) -> None:
    """Every stream on a thread of its own."""
    end, views = len(run.program.instructions), []
    for stream, own in enumerate(run.program.streams):
        view = copy(run)
        view.stream, view.at = stream, own[0] if own else end
        views.append(view)

    def body(view: Interpreter) -> None:
        with as_stream_group(run.context.group_of(view.stream)):
            for at in run.program.streams[view.stream]:
                host.look()
                view.do(at)
        view.at = end

    run.views = views
    host.run([partial(body, view) for view in views])
    run.views = [run]
    _at_the_end(run)


def issued(run: Interpreter, device: DeviceStreams) -> None:
    """Every stream on a device stream of its own, from this thread."""
    stream_of = {at: k for k, own in enumerate(run.program.streams) for at in own}
    with device.step(run.program.awaited):
        for at in range(len(run.program.instructions)):
            stream = stream_of[at]
            with device.on(stream), as_stream_group(run.context.group_of(stream)):
                run.do(at)
    _at_the_end(run)


def _at_the_end(run: Interpreter) -> None:
    """What is to be done behind instructions that compute gradients: behind all, since other
    streams may add to them."""
    for acts in run.data_parallel.actions(run.program).behind.values():
        for act in acts:
            act()


# Instructions -----------------------------------------------------------------------------------


def compute(run: Interpreter, instruction: Compute) -> None:
    """Runs the operation; its result is left in slot `writes`."""
    operation, writes = instruction.operation, instruction.writes
    try:
        result = OPERATIONS[operation.kind](run, operation)
    except Exception:
        run.handed = _handed(run, instruction)
        raise
    if writes != NONE:
        run.slots[writes], run.made[writes] = result, operation
        if KINDS[operation.kind].leaves == "activation":
            there = [tensor for tensor in result if tensor is not None]
            run.handed_on[writes] = HandedOn(operation, Versions(there))
    run.ended(operation)


def receive(run: Interpreter, instruction: Receive) -> None:
    """Posts a receive into new buffers, which are the slot's once they have arrived."""
    run.step.mailbox.receive(instruction.slot, instruction.channel, instruction.result)
    run.made[instruction.slot] = instruction.result


def send(run: Interpreter, instruction: Send) -> None:
    """Begins to send what is in the slot."""
    slot = instruction.slot
    run.step.mailbox.send(slot, instruction.channel, run.made[slot], run.slots[slot])


def wait(run: Interpreter, instruction: Wait) -> None:
    """Waits for every message begun on the slot."""
    arrived = run.step.mailbox.wait(instruction.slot, run.at)
    if arrived is not None:
        run.slots[instruction.slot] = arrived


def free(run: Interpreter, instruction: Free) -> None:
    """Lets go of what is in the slot."""
    if made := run.handed_on.pop(instruction.slot, None):
        made.check(run)
        run.step.mailbox.keep_unchanged(instruction.slot, lambda: made.check(run))
    del run.slots[instruction.slot]


def reduce(run: Interpreter, instruction: Reduce) -> None:
    """Sums the gradients of the copies of a stage."""
    run.replicas.sum(instruction.reduction)


def reduce_gradients(run: Interpreter, instruction: BeginReduction) -> None:
    """Begins to average a stage's gradients over its replicas."""
    run.data_parallel.begin(StageId(instruction.pipeline, instruction.stage))


def unshard_weights(run: Interpreter, instruction: BeginUnshard) -> None:
    """Begins to gather a stage's weights."""
    run.data_parallel.gather(StageId(instruction.pipeline, instruction.stage))


def await_(run: Interpreter, instruction: Await) -> None:
    """Waits until the computation of another stream has ended."""
    streams = run.host or run.device
    assert streams is not None
    streams.await_(instruction.operation)


INSTRUCTIONS: dict[type, Callable[[Interpreter, Any], None]] = {
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
"""By the type of an instruction what runs it."""


# Operations -------------------------------------------------------------------------------------


def forward(run: Interpreter, operation: Operation) -> Result:
    """F: the stage's outputs for other stages. The forward of an overlapped unit runs the unit's
    backward too, where the modules' class offers one call for both."""
    if operation.part != NONE:
        return part_forward(run, operation)
    stage, given = run.stage(operation), _forward_input(run, operation)
    partner = run.program.partner.get(run.at)
    if partner is not None and run.train:
        other = run.program.instructions[partner]
        assert isinstance(other, Compute)
        behind, microbatch = run.stage(other.operation), other.operation.microbatch
        pair = OverlappedPair(stage, given, behind, microbatch)
        gradients = run.gradients(other.operation, partner) if other.operation.kind == "B" else ()
        if other.operation.kind == "B" and pair.is_one_call(gradients):
            made, run.ran_ahead[partner] = pair.run(gradients)
            return _kept(run, operation, made)
    return _kept(run, operation, stage.forward(given))


def part_forward(run: Interpreter, operation: Operation) -> Result:
    """F of a part: the first one takes what the stage is given, the last one has its outputs."""
    chain, microbatch, part = run.chain(operation), operation.microbatch, operation.part
    if part == 0:
        chain.begin(_forward_input(run, operation))
    run.lend(chain.handed[microbatch].args, chain.handed[microbatch].kwargs)
    made = chain.forward(microbatch, part)
    return () if made is None else _kept(run, operation, made)


def part_backward(run: Interpreter, operation: Operation, split: bool) -> Result:
    """I or B of a part: the last one takes the gradients of the stage's outputs, the first one has
    those of what the stage was given. `split`: it leaves the weights to a W."""
    chain, microbatch, part = run.chain(operation), operation.microbatch, operation.part
    last = part == len(chain.parts) - 1
    gradients = run.gradients(operation, run.at) if last else chain.above[microbatch]
    run.lend(gradients)
    backward = chain.input_gradient if split else chain.backward
    return backward(microbatch, part, gradients) or ()


def backward(run: Interpreter, operation: Operation) -> Result:
    """B: the gradients of what the stage was given, and those of its weights."""
    if operation.part != NONE:
        return part_backward(run, operation, False)
    done = run.ran_ahead.pop(run.at, None)
    if done is not None:
        return done
    gradients = run.gradients(operation, run.at)
    return run.stage(operation).backward(operation.microbatch, gradients)


def input_gradient(run: Interpreter, operation: Operation) -> Result:
    """I: the gradients of what the stage was given. Of a part that has no W all gradients."""
    if operation.part != NONE:
        _, p, s, _, _, part = operation
        return part_backward(run, operation, run.context.plan.spec.parts[p][s][part].stream == 0)
    gradients = run.gradients(operation, run.at)
    return run.stage(operation).input_gradient(operation.microbatch, gradients)


def weight_gradient(run: Interpreter, operation: Operation) -> Result:
    """W: the gradients of the stage's weights, or of one part's."""
    if operation.part != NONE:
        run.chain(operation).weight_gradient(operation.microbatch, operation.part)
        return ()
    run.stage(operation).weight_gradient(operation.microbatch)
    return ()


OPERATIONS: dict[str, Callable[[Interpreter, Operation], Result]] = {
    "F": forward,
    "B": backward,
    "I": input_gradient,
    "W": weight_gradient,
}
"""By the kind of an operation what computes it; the result is empty where nobody needs it."""


def _forward_input(run: Interpreter, operation: Operation) -> ForwardInput:
    _, p, s, m, *_ = operation
    stage, own = run.stage(operation), run.step.microbatches.get(p, NOTHING)
    learn = run.train and stage.learns
    held = run.held(run.at)
    mailbox = run.step.mailbox
    leaving = {made[1:3] for slot, made in run.program.reads[run.at] if mailbox.is_sending(slot)}
    given: list[Tensor] = []
    for source in stage.sources:
        for tensor, spec in zip(held[source], run.step.edges.outputs(source, m), strict=True):
            assert tensor is not None
            # What is still being sent keeps its memory to itself, whatever the module does.
            leaf = tensor.detach().clone() if source in leaving else tensor.detach()
            given.append(leaf.requires_grad_() if spec.gradient and learn else leaf)
    x = own.of_stage(s, m, len(given))
    judged = stage.loss is not None and (stage.learns or not run.train)
    target = own.target[m] if own.target and judged else None
    judging = own.judging[m] if own.judging else Judging()
    return ForwardInput(m, x, tuple(given), target, learn, judging)


def _kept(run: Interpreter, operation: Operation, made: ForwardOutput) -> Result:
    """Keeps loss and output for the user; returns what goes to other stages, without its graph."""
    _, p, _, m, *_ = operation
    stage = run.stage(operation)
    if run.note is not None:
        run.note(operation, made.output)
    if made.loss is not None:
        run.losses.setdefault(p, {})[m] = made.loss
        run.metrics.setdefault(p, {})[m] = made.metrics
    if stage.returns and run.step.keep_outputs:
        run.outputs.setdefault(p, {})[m] = made.output
        run.returned.append(HandedOn(operation, Versions(tensors(made.output))))
    if not stage.sends:
        return ()
    run.step.edges.settle(operation, made.result, run.train and stage.learns)
    return tuple(tensor.detach() for tensor in made.result)


def _handed(run: Interpreter, instruction: Compute) -> str:
    """`, on (2, 17) float32 that ``F main[0, 3]`` of rank 0 has made,`: what the computation that
    has failed was given, by the user or by other stages; empty where nothing was."""
    plan, told = run.context.plan, []
    kind, p, s, m, *_ = instruction.operation
    own = run.step.microbatches.get(p, NOTHING)
    if kind == "F" and s == 0 and own.x:
        told.append(f"x of {signature(own.x[m])}")
    for slot, made in run.program.reads[run.at]:
        tensors = [t for t in run.slots.get(slot, ()) if t is not None]
        sizes = ", ".join(f"{tuple(t.shape)} {dtype_name(t.dtype)}" for t in tensors) or "nothing"
        rank = plan.graph.topology.rank_of(StageId(*made[1:3]))
        told.append(f"{sizes} that `{shown(plan.spec, made)}` of rank {rank} has made")
    return f", on {' and '.join(told)}," if told else ""
