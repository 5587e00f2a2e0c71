"""One rank's part of a plan, ready to be run. In comes a plan or its file; out come the rank's
instruction lists with what can be said of each instruction beforehand: which result every slot it
reads holds, which two computations are one unit, what each wait waits for, and in which words all
that is told. Nothing here knows torch."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from stretto.compiler.plan.plan import Plan, read_rank
from stretto.compiler.program.program import (
    NONE,
    Channel,
    Compute,
    Free,
    Instruction,
    Operation,
    Program,
    ProgramName,
    Receive,
    Reduce,
    Reduction,
    Send,
    Spec,
    Wait,
    show,
)
from stretto.runtime.errors import Stopped
from stretto.runtime.topology import Place, place_in_words


class Errand(NamedTuple):
    """A message that a wait is for: the result, and the rank it comes from or goes to."""

    result: Operation
    peer: int
    incoming: bool


class Script(NamedTuple):
    """One list. By the index of an instruction: `reads`, for a computation, the slots it reads,
    each with the operation whose result it holds; `errands`, for a wait, what it is for;
    `partner`, for the forward of an overlapped unit, the index of the other computation."""

    name: ProgramName
    instructions: tuple[Instruction, ...]
    reads: dict[int, tuple[tuple[int, Operation], ...]]
    errands: dict[int, tuple[Errand, ...]]
    partner: dict[int, int]


class Part(NamedTuple):
    """What a rank needs of a plan. `scripts` has `train` and `eval`, or `eval` alone."""

    rank: int
    spec: Spec
    channels: tuple[Channel, ...]
    reductions: tuple[Reduction, ...]
    scripts: dict[ProgramName, Script]
    hash: str

    @property
    def places(self) -> list[Place]:
        """The stages of this rank: by stage, then pipeline."""
        own = [
            Place(p, s)
            for p, pipeline in enumerate(self.spec.pipelines)
            for s, stage in enumerate(pipeline.stages)
            if stage.rank == self.rank
        ]
        return sorted(own, key=lambda place: (place.stage, place.pipeline))


def part_of(plan: Plan | str | os.PathLike[str], rank: int) -> Part:
    """The rank's part of the plan. Raises `Rejected` and `OSError` as reading does, and `Stopped`
    where this runtime cannot run the plan."""
    if isinstance(plan, Plan):
        first: Program = next(iter(plan.programs.values()))
        train = plan.programs.get("train")
        spec, channels = first.spec, first.channels
        reductions = train.reductions if train else ()
        lists = {name: program.ranks[rank] for name, program in plan.programs.items()}
        digest = plan.hash
    else:
        header, lists = read_rank(plan, rank)
        spec, channels, reductions = header.spec, header.channels, header.reductions
        digest = header.hash
    if spec.slices:
        raise Stopped("this plan cuts micro-batches into slices, which the runtime cannot run yet")
    scripts = {name: _script(name, own, channels) for name, own in lists.items()}
    return Part(rank, spec, channels, reductions, scripts, digest)


def _script(
    name: ProgramName, instructions: tuple[Instruction, ...], channels: Sequence[Channel]
) -> Script:
    held: dict[int, Operation] = {}
    begun: dict[int, list[Errand]] = {}
    forwards: dict[int, int] = {}
    script = Script(name, instructions, {}, {}, {})
    for at, instruction in enumerate(instructions):
        match instruction:
            case Compute(operation, reads, writes, unit):
                if operation.part != NONE:
                    raise Stopped("this plan splits stages into parts, which cannot be run yet")
                script.reads[at] = tuple((slot, held[slot]) for slot in reads)
                if writes != NONE:
                    held[writes] = operation
                if unit != NONE and unit in forwards:
                    script.partner[forwards.pop(unit)] = at
                elif unit != NONE:
                    forwards[unit] = at
            case Receive(slot, channel, result):
                held[slot] = result
                begun.setdefault(slot, []).append(Errand(result, channels[channel].source, True))
            case Send(slot, channel):
                errand = Errand(held[slot], channels[channel].target, False)
                begun.setdefault(slot, []).append(errand)
            case Wait(slot):
                script.errands[at] = tuple(begun.pop(slot, ()))
            case Free() | Reduce():
                pass
    return script


# Words ------------------------------------------------------------------------------------------


def line(spec: Spec, instruction: Compute) -> str:
    """Where the source asks for it, in brackets, or nothing."""
    if not 0 <= instruction.at < len(spec.spans):
        return ""
    span = spec.spans[instruction.at]
    return f" ({span.file}:{span.line})"


def in_words(part: Part, name: ProgramName, at: int) -> str:
    """What the rank is doing at this instruction, to follow `rank 2 `."""
    script, spec = part.scripts[name], part.spec
    if at >= len(script.instructions):
        return "has ended its list"
    match script.instructions[at]:
        case Compute() as compute:
            return f"computes `{show(spec, compute.operation)}`{line(spec, compute)}"
        case Wait():
            return f"waits {_before(part, script, at)}for {_errands(part, script.errands[at])}"
        case Reduce(number):
            copies = part.reductions[number].copies
            others = sorted({copy.rank for copy in copies} - {part.rank})
            stage = place_in_words(spec, Place(copies[0].pipeline, copies[0].stage))
            return f"sums the gradients of `{stage}` with {ranks(others)}"
        case Receive(_, channel, result):
            return f"posts `{show(spec, result)}` from rank {part.channels[channel].source}"
        case Send() | Free():
            return "hands on a result"


def peers(part: Part, name: ProgramName, at: int) -> list[int]:
    """The ranks that the instruction waits for."""
    script = part.scripts[name]
    if at >= len(script.instructions):
        return []
    instruction = script.instructions[at]
    if isinstance(instruction, Reduce):
        copies = part.reductions[instruction.reduction].copies
        return sorted({copy.rank for copy in copies} - {part.rank})
    return sorted({errand.peer for errand in script.errands.get(at, ())})


def _before(part: Part, script: Script, at: int) -> str:
    for instruction in script.instructions[at:]:
        if isinstance(instruction, Compute):
            words = show(part.spec, instruction.operation)
            return f"at `{words}`{line(part.spec, instruction)} "
    return "at the end of its list "


def _errands(part: Part, errands: Sequence[Errand]) -> str:
    return " and ".join(
        f"`{show(part.spec, errand.result)}` of rank {errand.peer}"
        if errand.incoming
        else f"rank {errand.peer} to take `{show(part.spec, errand.result)}`"
        for errand in errands
    )


def ranks(numbers: Sequence[int]) -> str:
    """`rank 3`, `ranks 1 and 3`, `ranks 0 to 5`."""
    if len(numbers) == 1:
        return f"rank {numbers[0]}"
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"ranks {numbers[0]} to {numbers[-1]}"
    return "ranks " + ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}"


# How stages hang together -----------------------------------------------------------------------
