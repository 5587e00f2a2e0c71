"""What may stand where in a certificate of stages that are cut into parts, as `shape` has it for
whole stages: every key known and there once, every number a whole one in a stated range.

`instance`: `ranks`, `minimize`, `split`, `streams` (names), `pipelines` (each `name`,
`microbatches`, `forward_only`, `feeds`: [[pipeline, stage]], `stages`: each `rank`, `activation`,
`kept` in grains, `parts` in the order of the forward: [[stream, F, B, I, W in ticks, activation]]),
`transfers`: [[rank, rank, ticks]], `limits` (grains or null, per rank), `exceptions`: [[operation,
ticks]], `rules`: [[later, earlier]], `fixed`: per rank the operations that are given, those of one
stream in this sequence. An operation is [kind, pipeline, stage, micro-batch, part]. `schedule`: per
rank, by start, [[start, end, operation]]. `claims`, `stated`, `plan` as in `check`; `evidence` is
described in `parts_bound`."""

from typing import Any

from stretto.compiler.certificate.checker.instance import demand
from stretto.compiler.certificate.checker.shape import (
    BESIDE,
    FIGURE,
    HEADER,
    MOST_MEMBERS,
    keys,
    many,
    maybe,
    one_of,
    row,
    text,
    whole,
)

PARTS_FORMAT = "stretto-certificate-of-parts"
MOST_STREAMS = 64

_figure = whole(0, FIGURE)
_index = whole(0, MOST_MEMBERS)
_stream = whole(0, MOST_STREAMS - 1)
_operation = row(one_of("F", "B", "I", "W"), _index, _index, _index, _index)
_part = row(_stream, *(_figure for _ in "FBIW"), _figure)
_stage = keys({"rank": _index, "activation": _figure, "kept": _figure, "parts": many(_part)})
_pipeline = keys(
    {
        "name": text,
        "microbatches": _index,
        "forward_only": one_of(True, False),
        "feeds": many(row(_index, _index)),
        "stages": many(_stage),
    }
)
_instance = keys(
    {
        "ranks": whole(1, MOST_MEMBERS),
        "minimize": one_of("makespan", "span"),
        "split": one_of(True, False),
        "streams": many(text),
        "pipelines": many(_pipeline),
        "transfers": many(row(_index, _index, _figure)),
        "limits": many(maybe(_figure)),
        "exceptions": many(row(_operation, _figure)),
        "rules": many(row(_operation, _operation)),
        "fixed": many(many(_operation)),
    }
)
_evidence = keys(
    {
        "by": one_of("chain", "busy", "merged", "window"),
        "rank": _index,
        "stream": _stream,
        "head": _figure,
        "tail": _figure,
    }
)
PARTS_CERTIFICATE = keys(
    {
        **HEADER,
        "format": one_of(PARTS_FORMAT),
        "instance": _instance,
        "schedule": many(many(row(_figure, _figure, _operation))),
        "evidence": _evidence,
    },
    BESIDE,
)
"""What stands where in a certificate of parts."""


def read_parts(found: Any) -> dict[str, Any]:
    """The certificate, of a JSON value. Raises `Refuted` where it is none."""
    PARTS_CERTIFICATE(found, "")
    instance = found["instance"]
    listed = sum(len(row) for row in found["schedule"])
    claimed = sum(
        len(stage["parts"]) * line["microbatches"] * (1 if line["forward_only"] else 2)
        for line in instance["pipelines"]
        for stage in line["stages"]
    )
    much = f"the instance has {claimed} operations or more, and the schedule lists {listed}"
    demand(claimed <= listed, much)
    ranks = f"the instance has {instance['ranks']} ranks, and {len(found['schedule'])} lists"
    demand(instance["ranks"] == len(found["schedule"]), f"{ranks} are in the schedule")
    return dict(found)
