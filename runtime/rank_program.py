"""One rank's part of a plan, ready to be run. In comes a plan or its file; out come the rank's
instruction lists with what can be said of each instruction beforehand: which result every slot it
reads holds, which two computations are one overlapped unit, and what each wait waits for. Nothing
here knows torch."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from stretto.compiler.plan.plan import Plan, read_rank
from stretto.compiler.plan.rank_line import IssuedList, RankLists
from stretto.compiler.program.program import (
    NONE,
    Await,
    BeginReduction,
    BeginUnshard,
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
)
from stretto.runtime.errors import PipelineError
from stretto.runtime.topology import StageGraph, StageId, numbered


class PendingMessage(NamedTuple):
    """A message that a wait is for: whose result it carries, the rank at its other end, and whether
    it comes from there."""

    result: Operation
    peer: int
    incoming: bool


class RankProgram(NamedTuple):
    """One instruction list of a rank, and by the index of an instruction: `reads`, for a
    computation, the slots it reads, each with the operation whose result it holds; `messages`, for
    a wait, those it waits for; `partner`, for the forward of an overlapped unit, the index of the
    other computation. `streams`, where stages are cut into parts: for each stream the indices of
    its instructions, and `awaited` the computations that some stream awaits."""

    name: ProgramName
    instructions: tuple[Instruction, ...]
    reads: dict[int, tuple[tuple[int, Operation], ...]]
    messages: dict[int, tuple[PendingMessage, ...]]
    partner: dict[int, int]
    streams: tuple[tuple[int, ...], ...] = ()
    awaited: frozenset[Operation] = frozenset()


class RankPlan(NamedTuple):
    """What one rank needs of a plan. `graph` is that of `spec`; `programs` has `train` and `eval`,
    or one of them alone; `no_evaluation` says why there is no `eval` beside a step."""

    rank: int
    spec: Spec
    graph: StageGraph
    channels: tuple[Channel, ...]
    reductions: tuple[Reduction, ...]
    programs: dict[ProgramName, RankProgram]
    hash: str
    no_evaluation: str = ""

    @property
    def stages(self) -> list[StageId]:
        """The stages of this rank: by stage, then pipeline."""
        return self.graph.on_rank(self.rank)


def plan_for_rank(plan: Plan | str | os.PathLike[str], rank: int, world: int) -> RankPlan:
    """The rank's part of a plan that must be made for `world` ranks. Raises `PipelineError` where
    it is for another number or this runtime cannot run it, `Rejected` and `OSError` as reading
    does."""
    try:
        found = _read(plan, rank)
    except (ValueError, IndexError):
        found = _read(plan, 0)
        if found.spec.ranks == world:  # it is not that the plan is for fewer
            raise
    many = found.spec.ranks
    if many != world:
        count = "1 rank" if many == 1 else f"{many} ranks"
        raise PipelineError(
            f"the plan is for {count}, and there are {world}: start {many} "
            f"(`torchrun --nproc-per-node {many} …`), or compile it with `--set ranks={world}`"
        )
    return found


def _read(plan: Plan | str | os.PathLike[str], rank: int) -> RankPlan:
    if isinstance(plan, Plan):
        first: Program = next(iter(plan.programs.values()))
        train = plan.programs.get("train")
        spec, channels = first.spec, first.channels
        reductions = train.reductions if train else ()
        lists: RankLists = {
            name: IssuedList(program.ranks[rank], program.streams[rank] if spec.streams else ())
            for name, program in plan.programs.items()
        }
        digest, no_evaluation = plan.hash, plan.no_evaluation
    else:
        header, lists = read_rank(plan, rank)
        spec, channels, reductions = header.spec, header.channels, header.reductions
        digest, no_evaluation = header.hash, header.no_evaluation
    programs: dict[ProgramName, RankProgram] = {
        name: on_streams(
            rank_program(name, _numbered(spec, own.instructions), channels), spec, own.streams
        )
        for name, own in lists.items()
    }
    graph = StageGraph(spec)
    return RankPlan(rank, spec, graph, channels, reductions, programs, digest, no_evaluation)


def _numbered(spec: Spec, instructions: tuple[Instruction, ...]) -> tuple[Instruction, ...]:
    """The list with its operations as the runtime counts slices."""
    if not spec.slices:
        return instructions
    found: list[Instruction] = []
    for instruction in instructions:
        match instruction:
            case Compute(operation):
                instruction = replace(instruction, operation=numbered(spec, operation))
            case Receive(_, _, result):
                instruction = replace(instruction, result=numbered(spec, result))
            case _:
                pass
        found.append(instruction)
    return tuple(found)


def rank_program(
    name: ProgramName, instructions: tuple[Instruction, ...], channels: Sequence[Channel]
) -> RankProgram:
    """Follows the list once, noting what stands in each slot. Raises `PipelineError` where it holds
    what the runtime cannot run."""
    held: dict[int, Operation] = {}
    begun: dict[int, list[PendingMessage]] = {}
    forwards: dict[int, int] = {}  # by overlapped unit
    program = RankProgram(name, instructions, {}, {}, {})
    for at, instruction in enumerate(instructions):
        match instruction:
            case Compute(operation, reads, writes, unit):
                program.reads[at] = tuple((slot, held[slot]) for slot in reads)
                if writes != NONE:
                    held[writes] = operation
                if unit != NONE and unit in forwards:
                    program.partner[forwards.pop(unit)] = at
                elif unit != NONE:
                    forwards[unit] = at
            case Receive(slot, channel, result):
                held[slot] = result
                message = PendingMessage(result, channels[channel].source, True)
                begun.setdefault(slot, []).append(message)
            case Send(slot, channel):
                message = PendingMessage(held[slot], channels[channel].target, False)
                begun.setdefault(slot, []).append(message)
            case Wait(slot):
                program.messages[at] = tuple(begun.pop(slot, ()))
            case Free() | Reduce() | BeginReduction() | BeginUnshard() | Await():
                pass
    return program


def stream_of_each(program: RankProgram) -> list[int]:
    """The stream of each instruction; without streams none."""
    found = {at: stream for stream, own in enumerate(program.streams) for at in own}
    return [found[at] for at in sorted(found)]


def on_streams(program: RankProgram, spec: Spec, streams: Sequence[int]) -> RankProgram:
    """The same, with what each stream of the Spec runs; `streams` has that of each instruction."""
    if not spec.streams:
        return program
    own: list[list[int]] = [[] for _ in spec.streams]
    for at, stream in enumerate(streams):
        own[stream].append(at)
    awaited = {one.operation for one in program.instructions if isinstance(one, Await)}
    return program._replace(streams=tuple(map(tuple, own)), awaited=frozenset(awaited))
