"""One run of one instruction list: the loop, and for each kind of instruction a method that does
what `docs/instructions.md` says, no more. Nothing is decided here."""

from collections.abc import Callable
from typing import Any

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
from stretto.runtime.microbatches import NOTHING, Share
from stretto.runtime.rank_program import Part, Script
from stretto.runtime.stage.stage import Forward, Result, Stage, Work, as_one, fits_as_one
from stretto.runtime.stage_outputs import Edges
from stretto.runtime.tensor_spec import check
from stretto.runtime.topology import Place
from stretto.runtime.transport import Pending, Transport


class Run:
    """The state of one step on one rank: what the slots hold, what is under way, and what the ends
    of pipelines gave, by pipeline and micro-batch. `at` is where it is; the watchdog reads it."""

    def __init__(
        self,
        part: Part,
        script: Script,
        stages: dict[Place, Stage],
        edges: Edges,
        transport: Transport,
        reduce: Callable[[int], None],
        shares: dict[int, Share],
        keep_outputs: bool,
    ):
        self.part, self.script, self.stages, self.edges = part, script, stages, edges
        self.transport, self.sum, self.shares = transport, reduce, shares
        self.train, self.keep_outputs = script.name == "train", keep_outputs
        self.slots: dict[int, Result] = {}
        self.under_way: dict[int, list[Pending]] = {}
        self.ahead: dict[int, Result] = {}
        self.outputs: dict[int, dict[int, Any]] = {}
        self.losses: dict[int, dict[int, Tensor]] = {}
        self.at = 0

    def run(self) -> None:
        for at, instruction in enumerate(self.script.instructions):
            self.at = at
            RUN[type(instruction)](self, instruction)
        self.at = len(self.script.instructions)

    # Moving -------------------------------------------------------------------------------------

    def receive(self, instruction: Receive) -> None:
        slot, channel, result = instruction.slot, instruction.channel, instruction.result
        buffers = tuple(
            shape.empty(self.transport.device)
            for shape in self.edges.of_result(result.kind, Place(*result[1:3]))
        )
        self.under_way.setdefault(slot, []).extend(self.transport.receive(channel, buffers))
        self.slots[slot] = buffers

    def send(self, instruction: Send) -> None:
        begun = self.transport.send(instruction.channel, self.slots[instruction.slot])
        self.under_way.setdefault(instruction.slot, []).extend(begun)

    def wait(self, instruction: Wait) -> None:
        for pending in self.under_way.pop(instruction.slot, ()):
            pending.wait()

    def free(self, instruction: Free) -> None:
        del self.slots[instruction.slot]

    def reduce(self, instruction: Reduce) -> None:
        self.sum(instruction.reduction)

    # Computing ----------------------------------------------------------------------------------

    def compute(self, instruction: Compute) -> None:
        result = COMPUTE[instruction.operation.kind](self, instruction.operation)
        if instruction.writes != NONE:
            self.slots[instruction.writes] = result

    def forward(self, operation: Operation) -> Result:
        stage, work = self._stage(operation), self._work(operation)
        partner = self.script.partner.get(self.at)
        if partner is not None and self.train:
            other = self.script.instructions[partner]
            assert isinstance(other, Compute)
            behind, microbatch = self._stage(other.operation), other.operation.microbatch
            if other.operation.kind == "B" and fits_as_one(stage, work, behind, microbatch):
                gradients = self._gradients(other.operation, partner)
                made, self.ahead[partner] = as_one(stage, work, behind, microbatch, gradients)
                return self._keep(operation, stage, made)
        return self._keep(operation, stage, stage.forward(work))

    def _work(self, operation: Operation) -> Work:
        _, p, s, m, *_ = operation
        stage, share = self.stages[Place(p, s)], self.shares.get(p, NOTHING)
        learn = self.train and stage.learns
        held = self._held(self.at)
        given: list[Tensor] = []
        for source in stage.sources:
            for tensor, shape in zip(held[source], self.edges.outputs[source], strict=True):
                if shape.gradient and learn:
                    given.append(tensor.detach().requires_grad_())
                else:
                    given.append(tensor.detach())
        x = share.x[m] if s == 0 and share.x else None
        judged = stage.loss is not None and (stage.learns or not self.train)
        target = share.target[m] if share.target and judged else None
        return Work(m, x, tuple(given), target, learn)

    def _keep(self, operation: Operation, stage: Stage, made: Forward) -> Result:
        _, p, _, m, *_ = operation
        if made.loss is not None:
            self.losses.setdefault(p, {})[m] = made.loss
        if stage.ends and self.keep_outputs:
            self.outputs.setdefault(p, {})[m] = made.output
        if not stage.sends:
            return ()
        words = f"`{show(self.part.spec, operation)}`"
        check(made.result, self.edges.outputs[stage.place], self.train and stage.learns, words)
        return tuple(tensor.detach() for tensor in made.result)

    def backward(self, operation: Operation) -> Result:
        done = self.ahead.pop(self.at, None)
        if done is not None:
            return done
        gradients = self._gradients(operation, self.at)
        return self._stage(operation).backward(operation.microbatch, gradients)

    def input_gradient(self, operation: Operation) -> Result:
        gradients = self._gradients(operation, self.at)
        return self._stage(operation).input_gradient(operation.microbatch, gradients)

    def weight_gradient(self, operation: Operation) -> Result:
        self._stage(operation).weight_gradient(operation.microbatch)
        return ()

    def _gradients(self, operation: Operation, at: int) -> Result:
        """The gradients of what the stage sent: of several stages that use it, the sum."""
        stage, held = self._stage(operation), self._held(at)
        shares = [held[user][self.edges.share(user, stage.place)] for user in stage.learners]
        if len(shares) <= 1:
            return shares[0] if shares else ()
        total = shares[0]
        for share in shares[1:]:
            total = tuple(a + b for a, b in zip(total, share, strict=True))
        return total

    def _held(self, at: int) -> dict[tuple[int, ...], Result]:
        """What the slots hold that the computation reads, by the stage that made it."""
        return {made[1:3]: self.slots[slot] for slot, made in self.script.reads[at]}

    def _stage(self, operation: Operation) -> Stage:
        return self.stages[Place(*operation[1:3])]


RUN: dict[type, Callable[[Run, Any], None]] = {
    Compute: Run.compute,
    Receive: Run.receive,
    Send: Run.send,
    Wait: Run.wait,
    Free: Run.free,
    Reduce: Run.reduce,
}

COMPUTE: dict[str, Callable[[Run, Operation], Result]] = {
    "F": Run.forward,
    "B": Run.backward,
    "I": Run.input_gradient,
    "W": Run.weight_gradient,
}
