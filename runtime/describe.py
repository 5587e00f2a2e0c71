"""What a rank is doing, in the plan's terms. In comes the index of an instruction, out come the
words for messages and the ranks that the instruction waits for."""

from collections.abc import Sequence

from stretto.compiler.diagnostics.wording import listed
from stretto.compiler.program.program import (
    Await,
    BeginReduction,
    BeginUnshard,
    Compute,
    Free,
    ProgramName,
    Receive,
    Reduce,
    Send,
    Spec,
    Wait,
)
from stretto.runtime.rank_program import PendingMessage, RankPlan, RankProgram
from stretto.runtime.topology import StageId, shown


def describe(plan: RankPlan, name: ProgramName, at: int) -> str:
    """What the rank is doing at instruction `at` of the program, to follow `rank 2 `."""
    program, spec = plan.programs[name], plan.spec
    if at >= len(program.instructions):
        return "has ended its list"
    match program.instructions[at]:
        case Compute() as compute:
            return f"computes `{shown(spec, compute.operation)}`{_line(spec, compute)}"
        case Wait():
            messages = _messages(spec, program.messages[at])
            return f"waits {_before(spec, program, at)}for {messages}"
        case Reduce(number):
            copy = plan.reductions[number].copies[0]
            stage = plan.reductions[number].tie or plan.graph.label(StageId(*copy[:2]))
            others = ranks(_other_copies(plan, number))
            return f"sums the gradients of `{stage}` with {others}"
        case Receive(_, channel, result):
            return f"posts `{shown(spec, result)}` from rank {plan.channels[channel].source}"
        case BeginReduction(p, s):
            return f"begins to average the gradients of `{plan.graph.label(StageId(p, s))}`"
        case BeginUnshard(p, s):
            return f"begins to gather the weights of `{plan.graph.label(StageId(p, s))}`"
        case Send(_, channel):
            return f"sends to rank {plan.channels[channel].target}"
        case Free():
            return "frees a result"
        case Await(operation):
            part = spec.parts[operation.pipeline][operation.stage][operation.part]
            stream = spec.streams[part.stream]
            return f"awaits `{shown(spec, operation)}` of `{stream}`"


def describe_streams(plan: RankPlan, name: ProgramName, at: Sequence[tuple[int, int]]) -> str:
    """What the rank is doing, on each stream its instruction: pairs of stream and index."""
    names, end = plan.spec.streams, len(plan.programs[name].instructions)
    there = [(names[stream] if names else "", one) for stream, one in at]
    if len(there) == 1:
        ((stream, one),) = there
        return describe(plan, name, one) + (f" on stream `{stream}`" if stream else "")
    busy = [(stream, one) for stream, one in there if one < end]
    told = [f"on `{stream}` {describe(plan, name, one)}" for stream, one in busy]
    return ", ".join(told) or describe(plan, name, end)


def awaited_ranks(plan: RankPlan, name: ProgramName, at: int) -> list[int]:
    """The ranks that instruction `at` of the program waits for."""
    program = plan.programs[name]
    if at >= len(program.instructions):
        return []
    instruction = program.instructions[at]
    if isinstance(instruction, Reduce):
        return _other_copies(plan, instruction.reduction)
    if isinstance(instruction, Send):  # a connection may have broken, or be full
        return [plan.channels[instruction.channel].target]
    if isinstance(instruction, Receive):
        return [plan.channels[instruction.channel].source]
    return sorted({message.peer for message in program.messages.get(at, ())})


def ranks(numbers: Sequence[int]) -> str:
    """`rank 3`, `ranks 1 and 3`, `ranks 0 to 5`."""
    return listed("rank", numbers)


def _other_copies(plan: RankPlan, reduction: int) -> list[int]:
    """The other ranks that take part in the reduction."""
    return sorted({copy.rank for copy in plan.reductions[reduction].copies} - {plan.rank})


def _line(spec: Spec, instruction: Compute) -> str:
    """` (FILE:LINE)` of the source text that asks for it, or nothing."""
    if not 0 <= instruction.at < len(spec.spans):
        return ""
    span = spec.spans[instruction.at]
    return f" ({span.file}:{span.line})"


def _before(spec: Spec, program: RankProgram, at: int) -> str:
    """Before which computation of its stream the wait stands."""
    own = next((own for own in program.streams if at in own), range(len(program.instructions)))
    for later in own:
        instruction = program.instructions[later]
        if later > at and isinstance(instruction, Compute):
            return f"at `{shown(spec, instruction.operation)}`{_line(spec, instruction)} "
    return "at the end of its list "


def _messages(spec: Spec, messages: Sequence[PendingMessage]) -> str:
    return " and ".join(
        f"`{shown(spec, message.result)}` of rank {message.peer}"
        if message.incoming
        else f"rank {message.peer} to take `{shown(spec, message.result)}`"
        for message in messages
    )
