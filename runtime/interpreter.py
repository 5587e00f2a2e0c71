"""One run of one instruction list. In comes a rank's program and the step's micro-batches; out come
gradients in the modules, outputs and losses. Two tables say what runs: `INSTRUCTIONS` by the type
of an instruction, `OPERATIONS` by the kind of a computation. Each does what `docs/instructions.md`
says, no more; nothing is decided here. A new kind of either is a row in its table."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from stretto.compiler.program.program import (
    NONE,
    Compute,
    Free,
    Operation,
    Receive,
    Reduce,
    Send,
    Wait,
    show,
)
from stretto.compiler.program.topology import KINDS
from stretto.runtime.batch import tensors
from stretto.runtime.data_parallel.synchronization import DataParallel
from stretto.runtime.errors import PipelineError
from stretto.runtime.microbatches import NOTHING, PipelineMicrobatches
from stretto.runtime.rank_context import RankContext
from stretto.runtime.rank_program import RankProgram
from stretto.runtime.replicas import Replicas
from stretto.runtime.stage.judge import Judging
from stretto.runtime.stage.overlapped import OverlappedPair
from stretto.runtime.stage.private import Versions
from stretto.runtime.stage.stage_module import ForwardInput, ForwardOutput, Result, StageModule
from stretto.runtime.stage_outputs import StageOutputs
from stretto.runtime.tensor_spec import check
from stretto.runtime.topology import StageId
from stretto.runtime.transport import Pending
from stretto.runtime.whereabouts import AT


class StepInput(NamedTuple):
    """What one step runs on: the micro-batches by pipeline, the shapes that the ranks agreed on,
    and whether outputs are kept for the user."""

    microbatches: dict[int, PipelineMicrobatches]
    shapes: StageOutputs
    keep_outputs: bool


class HandedOn(NamedTuple):
    """An operation whose output is read by others, and the output as it was."""

    operation: Operation
    versions: Versions

    def check(self, run: "Interpreter") -> None:
        """Raises `PipelineError` where the output has been written on."""
        if self.versions.changed():
            raise PipelineError(
                f"the output of `{show(run.context.plan.spec, self.operation)}` was changed in "
                "place after the stage had handed it on: does the module return a buffer that it "
                "writes on later? Let it return a copy of that, `.clone()`"
            )


class Interpreter:
    """The state of one step on one rank: what the slots hold, which messages are in flight by slot,
    and the results of overlapped backwards that ran ahead, by instruction. `handed_on`, by slot,
    and `returned` are stages' outputs, on which nobody may write any more. `outputs`, `losses` and
    `metrics` are by pipeline and micro-batch. `at` is the index of the running instruction; the
    watchdog reads it."""

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
        self.in_flight: dict[int, list[Pending]] = {}
        self.ran_ahead: dict[int, Result] = {}
        self.handed_on: dict[int, HandedOn] = {}
        self.outputs: dict[int, dict[int, Any]] = {}
        self.returned: list[HandedOn] = []
        self.losses: dict[int, dict[int, Tensor]] = {}
        self.metrics: dict[int, dict[int, Any]] = {}
        self.at = 0

    def run(self) -> None:
        """Runs the list, top to bottom. Raises what the modules, the loss and the transport
        raise."""
        self.data_parallel.prepare(self.train)
        before, behind = self.data_parallel.actions(self.program)
        page = self.context.page.numbers
        for at, instruction in enumerate(self.program.instructions):
            self.at = page[AT] = at
            for act in before.get(at, ()):
                act()
            INSTRUCTIONS[type(instruction)](self, instruction)
            for act in behind.get(at, ()):
                act()
        for made in self.returned:
            made.check(self)
        self.at = len(self.program.instructions)
        self.data_parallel.finish(self.train)

    def stage(self, operation: Operation) -> StageModule:
        """The stage of this rank that the operation is of."""
        return self.context.stages[StageId(*operation[1:3])]

    def held(self, at: int) -> dict[tuple[int, ...], Result]:
        """What is in the slots that computation `at` reads, by the stage that made it."""
        return {made[1:3]: self.slots[slot] for slot, made in self.program.reads[at]}

    def gradients(self, operation: Operation, at: int) -> Result:
        """The gradients of the stage's outputs, for the backward at instruction `at`: of several
        stages that use them, the sum."""
        stage, held = self.stage(operation), self.held(at)
        shapes = self.step.shapes
        parts = [
            held[user][shapes.gradients_for(stage.stage, user)] for user in stage.gradient_senders
        ]
        if len(parts) <= 1:
            return parts[0] if parts else ()
        total = parts[0]
        for part in parts[1:]:
            total = tuple(a + b for a, b in zip(total, part, strict=True))
        return total


# Instructions -----------------------------------------------------------------------------------


def compute(run: Interpreter, instruction: Compute) -> None:
    """Runs the operation; its result is left in slot `writes`."""
    result = OPERATIONS[instruction.operation.kind](run, instruction.operation)
    if instruction.writes != NONE:
        run.slots[instruction.writes] = result
        if KINDS[instruction.operation.kind].leaves == "activation":
            run.handed_on[instruction.writes] = HandedOn(instruction.operation, Versions(result))


def receive(run: Interpreter, instruction: Receive) -> None:
    """Posts a receive into new buffers, which are the slot's."""
    slot, channel, result = instruction.slot, instruction.channel, instruction.result
    specs = run.step.shapes.of_result(result.kind, StageId(*result[1:3]))
    transport = run.context.transport
    buffers = tuple(spec.empty(transport.device) for spec in specs)
    run.in_flight.setdefault(slot, []).extend(transport.receive(channel, buffers))
    run.slots[slot] = buffers


def send(run: Interpreter, instruction: Send) -> None:
    """Begins to send what is in the slot."""
    begun = run.context.transport.send(instruction.channel, run.slots[instruction.slot])
    run.in_flight.setdefault(instruction.slot, []).extend(begun)


def wait(run: Interpreter, instruction: Wait) -> None:
    """Waits for every message begun on the slot."""
    for pending in run.in_flight.pop(instruction.slot, ()):
        pending.wait()


def free(run: Interpreter, instruction: Free) -> None:
    """Lets go of what is in the slot."""
    if made := run.handed_on.pop(instruction.slot, None):
        made.check(run)
    del run.slots[instruction.slot]


def reduce(run: Interpreter, instruction: Reduce) -> None:
    """Sums the gradients of the copies of a stage."""
    run.replicas.sum(instruction.reduction)


INSTRUCTIONS: dict[type, Callable[[Interpreter, Any], None]] = {
    Compute: compute,
    Receive: receive,
    Send: send,
    Wait: wait,
    Free: free,
    Reduce: reduce,
}
"""By the type of an instruction what runs it."""


# Operations -------------------------------------------------------------------------------------


def forward(run: Interpreter, operation: Operation) -> Result:
    """F: the stage's outputs for other stages. The forward of an overlapped unit runs the unit's
    backward too, where the modules' class offers one call for both."""
    stage, given = run.stage(operation), _forward_input(run, operation)
    partner = run.program.partner.get(run.at)
    if partner is not None and run.train:
        other = run.program.instructions[partner]
        assert isinstance(other, Compute)
        behind, microbatch = run.stage(other.operation), other.operation.microbatch
        pair = OverlappedPair(stage, given, behind, microbatch)
        if other.operation.kind == "B" and pair.is_one_call():
            made, run.ran_ahead[partner] = pair.run(run.gradients(other.operation, partner))
            return _kept(run, operation, made)
    return _kept(run, operation, stage.forward(given))


def backward(run: Interpreter, operation: Operation) -> Result:
    """B: the gradients of what the stage was given, and those of its weights."""
    done = run.ran_ahead.pop(run.at, None)
    if done is not None:
        return done
    gradients = run.gradients(operation, run.at)
    return run.stage(operation).backward(operation.microbatch, gradients)


def input_gradient(run: Interpreter, operation: Operation) -> Result:
    """I: the gradients of what the stage was given."""
    gradients = run.gradients(operation, run.at)
    return run.stage(operation).input_gradient(operation.microbatch, gradients)


def weight_gradient(run: Interpreter, operation: Operation) -> Result:
    """W: the gradients of the stage's weights."""
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
    leaving = {made[1:3] for slot, made in run.program.reads[run.at] if slot in run.in_flight}
    given: list[Tensor] = []
    for source in stage.sources:
        for tensor, spec in zip(held[source], run.step.shapes.outputs[source], strict=True):
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
    if made.loss is not None:
        run.losses.setdefault(p, {})[m] = made.loss
        run.metrics.setdefault(p, {})[m] = made.metrics
    if stage.returns and run.step.keep_outputs:
        run.outputs.setdefault(p, {})[m] = made.output
        run.returned.append(HandedOn(operation, Versions(tensors(made.output))))
    if not stage.sends:
        return ()
    label = f"`{show(run.context.plan.spec, operation)}`"
    agreed = run.step.shapes.outputs[stage.stage]
    check(made.result, agreed, run.train and stage.learns, label)
    return tuple(tensor.detach() for tensor in made.result)
