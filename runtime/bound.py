"""What a rank's instructions work on, found once for all steps. In come the rank's program and its
stages; out comes what each instruction is about: for a computation its stage and the slots that it
reads, for a message what it carries and to whom. So a step looks up nothing that is the same for
every micro-batch."""

from collections import Counter
from typing import Any, NamedTuple

from stretto.compiler.program.program import (
    NONE,
    Channel,
    Compute,
    Free,
    Operation,
    Receive,
    Reduce,
    Send,
    Wait,
)
from stretto.compiler.program.topology import KINDS
from stretto.runtime.rank_context import RankContext
from stretto.runtime.rank_program import RankProgram
from stretto.runtime.stage.stage_module import StageModule
from stretto.runtime.topology import StageGraph, StageId


class HeldResult(NamedTuple):
    """A slot, and the operation whose result it holds."""

    slot: int
    made: Operation


class BoundCompute(NamedTuple):
    """A computation. `inputs`, of a forward: the results of its stage's sources, in the order of
    the module's arguments. `gradients`, of a backward: those that come from the users of the
    stage's output; `single`: there is one, which sends back nothing else. `hands_on`: its result is
    an output, on which nobody may write any more. `partner` is the index of the other computation
    of an overlapped unit, -1 if there is none. `learns`: a backward will follow; `judged`: the
    output goes to the loss, if there is a target; `alone`: nothing else reads what it reads."""

    at: int
    operation: Operation
    stage: StageModule
    inputs: tuple[HeldResult, ...]
    gradients: tuple[HeldResult, ...]
    single: bool
    writes: int
    hands_on: bool
    partner: int
    learns: bool
    judged: bool
    alone: bool


class BoundMessage(NamedTuple):
    """A receive or a send. `result` is the operation whose result travels; `activation`: that is a
    stage's output, else gradients; `peer` is the rank at the other end."""

    slot: int
    channel: int
    result: Operation
    activation: bool
    peer: int


def bound_instructions(context: RankContext, program: RankProgram) -> list[Any]:
    """By the index of an instruction what it is about: of a computation a `BoundCompute`, of a
    receive or a send a `BoundMessage`, of a wait or a free the slot, of a reduction its number and
    those of the reductions right behind it, of others the instruction."""
    found: list[Any] = []
    held: dict[int, Operation] = {}
    readers = Counter(read for reads in program.reads.values() for read in reads)
    for at, one in enumerate(program.instructions):
        what: Any = one
        match one:
            case Compute():
                alone = all(readers[read] == 1 for read in program.reads[at])
                what = _bound(context, program, at, one, alone)
                held[one.writes] = one.operation
            case Receive(slot, channel, result):
                what = _message(context.plan.channels[channel], slot, channel, result)
                held[slot] = result
            case Send(slot, channel):
                what = _message(context.plan.channels[channel], slot, channel, held[slot], True)
            case Wait(slot) | Free(slot):
                what = slot
            case Reduce():
                what = _reductions(program, at)
            case _:
                pass
        found.append(what)
    return found


def _reductions(program: RankProgram, at: int) -> tuple[int, ...]:
    """Where streams run side by side, what is behind it in the list may not be so in time."""
    found: list[int] = []
    for one in program.instructions[at : at + 1 if program.streams else None]:
        if not isinstance(one, Reduce):
            break
        found.append(one.reduction)
    return tuple(found)


def _message(
    channel: Channel, slot: int, number: int, result: Operation, sent: bool = False
) -> BoundMessage:
    activation = KINDS[result.kind].leaves == "activation"
    peer = channel.target if sent else channel.source
    return BoundMessage(slot, number, result, activation, peer)


def _bound(
    context: RankContext, program: RankProgram, at: int, one: Compute, alone: bool
) -> BoundCompute:
    operation, train = one.operation, program.name == "train"
    stage = context.stages[StageId(*operation[1:3])]
    held = {StageId(*made[1:3]): HeldResult(slot, made) for slot, made in program.reads[at]}
    leaves = KINDS[operation.kind].leaves
    inputs: tuple[HeldResult, ...] = ()
    gradients: tuple[HeldResult, ...] = ()
    if leaves == "activation" and operation.part <= 0:  # the whole stage, or its first part
        inputs = tuple(held[source] for source in stage.sources)
    if leaves == "gradient" and held:
        gradients = tuple(held[user] for user in stage.gradient_senders)
    return BoundCompute(
        at=at,
        operation=operation,
        stage=stage,
        inputs=inputs,
        gradients=gradients,
        single=_is_single(context.plan.graph, stage.stage, gradients),
        writes=one.writes,
        hands_on=one.writes != NONE and leaves == "activation",
        partner=program.partner.get(at, NONE) if train else NONE,
        learns=train and stage.learns,
        judged=stage.loss is not None and (stage.learns or not train),
        alone=alone,
    )


def _is_single(graph: StageGraph, stage: StageId, held: tuple[HeldResult, ...]) -> bool:
    return len(held) == 1 and graph.sources[StageId(*held[0].made[1:3])] == [stage]
