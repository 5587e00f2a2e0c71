"""The schedules that the installed PyTorch ships, as tables of our own notation: an oracle that we
did not write.

PyTorch computes an order in the constructor of a schedule, which wants stage modules and processes.
`table` gives it stages that only know their place. It returns, for each rank, the sequence of
units `((kind, stage, microbatch), …)`; a pair is one unit, its F first. Sizes that PyTorch refuses
raise its own `ValueError`.
"""

from types import SimpleNamespace
from typing import Any

from torch.distributed.pipelining import schedules

Unit = tuple[tuple[str, int, int], ...]

CLASSES = {
    "looped_bfs": schedules.ScheduleLoopedBFS,
    "interleaved_1f1b": schedules.ScheduleInterleaved1F1B,
    "interleaved_zero_bubble": schedules.ScheduleInterleavedZeroBubble,
    "zb_v": schedules.ScheduleZBVZeroBubble,
    "dualpipe_v": schedules.ScheduleDualPipeV,
}
KINDS = {
    schedules.FORWARD: "F",
    schedules.FULL_BACKWARD: "B",
    schedules.BACKWARD_INPUT: "I",
    schedules.BACKWARD_WEIGHT: "W",
}


def table(name: str, ranks: int, microbatches: int, chunks: int = 2) -> list[list[Unit]]:
    """PyTorch's order of the schedule that is `name` in our library."""
    stages: Any = [
        SimpleNamespace(
            num_stages=ranks * chunks,
            group_size=ranks,
            group_rank=0,
            stage_index=ranks * chunk,
            is_first=chunk == 0,
            is_last=ranks == 1 and chunk == chunks - 1,
            submod=None,
            has_backward=True,
        )
        for chunk in range(chunks)
    ]
    order = CLASSES[name](stages, microbatches, loss_fn=lambda *_: None).pipeline_order
    return [[_unit(action) for action in order[rank] if action] for rank in range(ranks)]


def _unit(action: Any) -> Unit:
    return tuple(
        (KINDS[part.computation_type], part.stage_index, part.microbatch_index)
        for part in action.sub_actions or (action,)
    )
