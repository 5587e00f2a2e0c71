"""What the ranks know of the tensors that travel. In comes, for every step, the signature of each
micro-batch; out come the specs of what each stage gives for it. A stage's rank finds them when its
module has run, and posts them ahead of the data; whoever needs them reads them once. They hold for
all micro-batches of that signature, in this step and later: a stage that gives something else is
refused where it does.

Gradients have the shapes of what they are the gradients of, so nothing is posted for them.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from stretto.compiler.program.program import Operation, ProgramName
from stretto.compiler.program.topology import KINDS
from stretto.runtime.coordination.store import Store
from stretto.runtime.signatures import StepSignatures
from stretto.runtime.stage.stage_module import Outputs
from stretto.runtime.tensor_spec import (
    TensorSpecs,
    are,
    carrying,
    check,
    from_json,
    specs_of,
    to_json,
)
from stretto.runtime.topology import StageGraph, StageId, shown

MOST = 1024  # signatures that are remembered


class EdgeKey(NamedTuple):
    """What specs are remembered for: the program, a stage, and the signature of a micro-batch."""

    program: ProgramName
    stage: StageId
    signature: str

    def __str__(self) -> str:
        return f"edge/{self.program}/{self.stage.pipeline}/{self.stage.stage}/{self.signature}"


class KnownSpecs(NamedTuple):
    """A stage's outputs, and the operation that gave such ones first, in words."""

    specs: TensorSpecs
    maker: str


class EdgeMemory:
    """One rank's knowledge of the edges, over all steps. What is known to one of two ranks that a
    message joins is known to the other, since both forget together."""

    def __init__(self, store: Store, graph: StageGraph):
        self.store, self.graph = store, graph
        self.known: dict[EdgeKey, KnownSpecs] = {}
        self.seen: set[tuple[ProgramName, str]] = set()  # in steps that were completed
        self.last: dict[ProgramName, StepEdges] = {}
        self.posted: list[str] = []

    def step(self, program: ProgramName, signatures: StepSignatures) -> "StepEdges":
        """For a step that all ranks are about to take. Where its micro-batches are those of the
        last step, so is what was looked up for that."""
        last = self.last.get(program)
        if last is not None and last.signatures == signatures and not last.new:
            return last
        wanted = {(program, signature) for row in signatures.of for signature in row}
        if len(self.seen | wanted) > max(MOST, len(wanted)):
            self.known.clear()
            self.seen.clear()
            self.last.clear()
        edges = self.last[program] = StepEdges(self, program, signatures, not wanted <= self.seen)
        return edges

    def forget_posts(self) -> None:
        """Deletes what this rank has posted in earlier steps, which all ranks have completed."""
        for key in self.posted:
            self.store.forget(key)
        self.posted.clear()


class StepEdges:
    """The edges in one step. `new`: it has a micro-batch of a signature that the ranks do not know
    for this program, so that a receive can be posted late."""

    def __init__(
        self, memory: EdgeMemory, program: ProgramName, signatures: StepSignatures, new: bool
    ):
        self.memory, self.graph = memory, memory.graph
        self.program, self.signatures, self.new = program, signatures, new
        self._results: dict[Operation, TensorSpecs] = {}
        self._parts: dict[tuple[StageId, Operation], slice] = {}
        self._makers: dict[Operation, list[Callable[[], Tensor]]] = {}

    def outputs(self, stage: StageId, microbatch: int) -> TensorSpecs:
        """What the stage gives other stages for the micro-batch. Waits until its rank has posted
        it, if it is not known here; raises what the wait raises."""
        key = self._key(stage, microbatch)
        known = self.memory.known.get(key)
        if known is None:
            specs, maker = self.memory.store.await_values([str(key)])[0]
            known = self.memory.known[key] = KnownSpecs(from_json(specs), maker)
        return known.specs

    def of_result(self, operation: Operation) -> TensorSpecs:
        """The tensors of the operation's result: of one that leaves activations the stage's
        outputs, else the gradients of all that the stage was given. Waits as `outputs`."""
        found = self._results.get(operation)
        if found is None:
            found = self._results[operation] = self._of_result(operation)
        return found

    def _of_result(self, operation: Operation) -> TensorSpecs:
        stage, microbatch = StageId(*operation[1:3]), operation.microbatch
        if KINDS[operation.kind].leaves == "activation":
            return self.outputs(stage, microbatch)
        return tuple(
            spec
            for source in self.graph.sources[stage]
            for spec in carrying(self.outputs(source, microbatch))
        )

    def buffers(self, operation: Operation, device: torch.device) -> tuple[Tensor, ...]:
        """New tensors for the operation's result. Waits as `outputs`."""
        found = self._makers.get(operation)
        if found is None:
            specs = self.of_result(operation)
            found = self._makers[operation] = [spec.maker(device) for spec in specs]
        return tuple([make() for make in found])

    def knows(self, operation: Operation) -> bool:
        """Whether `of_result` need not wait."""
        stage, microbatch = StageId(*operation[1:3]), operation.microbatch
        activation = KINDS[operation.kind].leaves == "activation"
        needed = [stage] if activation else self.graph.sources[stage]
        return all(self._key(one, microbatch) in self.memory.known for one in needed)

    def gradients_for(self, source: StageId, backward: Operation) -> slice:
        """Which of the gradients that `backward` sends back are those of the outputs of
        `source`."""
        found = self._parts.get((source, backward))
        if found is None:
            found = self._parts[source, backward] = self._gradients_for(source, backward)
        return found

    def _gradients_for(self, source: StageId, backward: Operation) -> slice:
        first = 0
        for other in self.graph.sources[StageId(*backward[1:3])]:
            many = len(carrying(self.outputs(other, backward.microbatch)))
            if other == source:
                return slice(first, first + many)
            first += many
        raise KeyError(source)

    def settle(self, operation: Operation, result: Outputs, learn: bool) -> None:
        """What the forward `operation` of this rank has given is posted for the other ranks where
        it is the first of its signature, before it is sent; `learn`: a backward will follow.
        Raises `PipelineError` where it is not what others of this signature were."""
        settled = self._results.get(operation)
        if settled is not None and are(result, settled, learn):
            return
        label = f"`{shown(self.graph.spec, operation)}`"
        key = self._key(StageId(*operation[1:3]), operation.microbatch)
        known = self.memory.known.get(key)
        found = specs_of(result, learn, label)
        if known is None:
            self.memory.known[key] = KnownSpecs(found, label)
            self.memory.store.post(str(key), [to_json(found), label])
            self.memory.posted.append(str(key))
        elif found != known.specs:
            check(found, known.specs, label, known.maker)
        self._results[operation] = found

    def complete(self) -> None:
        """The step has come to its end on this rank."""
        self.memory.seen |= {(self.program, one) for row in self.signatures.of for one in row}  # pyright: ignore[reportAttributeAccessIssue]

    def _key(self, stage: StageId, microbatch: int) -> EdgeKey:
        return EdgeKey(self.program, stage, self.signatures.of[stage.pipeline][microbatch])  # pyright: ignore[reportArgumentType]
