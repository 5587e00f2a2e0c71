"""When a rank's list is done with a stage. In comes a rank's program; out comes, by stage, the
index of the instruction behind which nothing on this rank changes its gradients any more: the last
`B` or `W`, or the sum over its copies. Nothing here knows torch."""

from stretto.compiler.program.program import BeginReduction, Compute, Reduce
from stretto.runtime.rank_program import RankPlan, RankProgram
from stretto.runtime.topology import StageId

WEIGHTS = ("B", "W")
"""The kinds of operations that add to the gradients of a stage's weights."""


def weight_gradients(program: RankProgram) -> dict[int, StageId]:
    """By the index of each instruction that computes gradients of weights, the stage."""
    return {
        at: StageId(*instruction.operation[1:3])
        for at, instruction in enumerate(program.instructions)
        if isinstance(instruction, Compute) and instruction.operation.kind in WEIGHTS
    }


def final_gradients(plan: RankPlan, program: RankProgram) -> dict[StageId, int]:
    """By stage the index of the last instruction that changes its gradients."""
    last = {stage: at for at, stage in weight_gradients(program).items()}
    for at, instruction in enumerate(program.instructions):
        if isinstance(instruction, Reduce):
            for copy in plan.reductions[instruction.reduction].copies:
                if copy.rank == plan.rank:
                    last[StageId(copy.pipeline, copy.stage)] = at
    return last


def reduced_by_plan(program: RankProgram) -> set[StageId]:
    """The stages for which the list itself says when: it was compiled from a file that does."""
    return {
        StageId(one.pipeline, one.stage)
        for one in program.instructions
        if isinstance(one, BeginReduction)
    }
