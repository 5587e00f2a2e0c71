"""The library's orders, operation by operation, against sequences that we did not write: PyTorch's
own tables, and the published `step` of DualPipe and DualPipeV.
"""

import json
import re
from collections.abc import Callable

import pytest

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.problem.spec import Spec
from stretto.compiler.program.program import Receive
from tests.support import library
from tests.support.paths import DATA
from tests.support.torch_tables import table

PUBLISHED = json.loads((DATA / "dualpipe_sequences.json").read_text())

LOOPED = [
    (p, m, v) for p in (1, 2, 3, 4, 6) for m in (1, 2, 3, 4, 5, 6, 8, 10, 12) for v in (1, 2, 3)
]
VEE = [(p, m, 2) for p in (1, 2, 3, 4, 5, 8) for m in (*range(1, 13), 16, 17, 24)]
SIZES = {
    "looped_bfs": LOOPED,
    "interleaved_1f1b": LOOPED,
    "interleaved_zero_bubble": LOOPED,
    "zb_v": VEE,
    "dualpipe_v": VEE,
}


@pytest.mark.parametrize("name", SIZES)
def test_orders_are_those_of_pytorch(name: str) -> None:
    """Wherever PyTorch has an order ours is the same, and where it refuses sizes so do we."""
    compared = 0
    for ranks, microbatches, chunks in SIZES[name]:
        size = {"ranks": ranks, "microbatches": microbatches}
        if SIZES[name] is LOOPED:
            size["chunks"] = chunks
        try:
            theirs = table(name, ranks, microbatches, chunks)
        except ValueError:
            with pytest.raises(Rejected) as refusal:
                library.spec(name, **size)
            assert {d.code for d in refusal.value.diagnostics} == {"requirement"}, size
            continue
        ours = [
            [tuple((op.kind, op.stage, op.microbatch) for op in unit) for unit in rank]
            for rank in library.sequences(library.spec(name, **size))
        ]
        assert ours == theirs, size
        compared += 1
    assert compared >= 30


def megatron(
    rank: int, ranks: int, microbatches: int, chunks: int, group: int
) -> list[tuple[str, int, int]]:
    """Megatron-LM's interleaved order, where the last group may be smaller than the others."""
    both = [(c, m) for c in range(chunks) for m in range(microbatches)]
    forward = [
        ("F", c * ranks + rank, m)
        for c, m in sorted(both, key=lambda cm: (cm[1] // group, cm[0], cm[1]))
    ]
    backward = [
        ("B", c * ranks + rank, m)
        for c, m in sorted(both, key=lambda cm: (cm[1] // group, -cm[0], cm[1]))
    ]
    ahead = min(2 * (ranks - 1 - rank) + (chunks - 1) * group, len(both))
    steady = zip(forward[ahead:], backward, strict=False)
    return forward[:ahead] + [op for pair in steady for op in pair] + backward[len(both) - ahead :]


@pytest.mark.parametrize(
    ("ranks", "microbatches", "chunks", "group"),
    [
        (2, 5, 2, 3),
        (2, 10, 3, 4),
        (3, 8, 2, 5),
        (4, 9, 2, 5),
        (4, 14, 2, 5),
        (4, 19, 3, 7),
        (8, 32, 2, 11),
    ],
)
def test_a_smaller_last_group_as_in_megatron(
    ranks: int, microbatches: int, chunks: int, group: int
) -> None:
    spec = library.spec(
        "interleaved_1f1b", ranks=ranks, microbatches=microbatches, chunks=chunks, group=group
    )
    for rank, units in enumerate(library.sequences(spec)):
        assert [(op.kind, op.stage, op.microbatch) for unit in units for op in unit] == megatron(
            rank, ranks, microbatches, chunks, group
        )


@pytest.mark.parametrize("entry", [key for key in PUBLISHED if key.count("/") == 2])
def test_dualpipe_is_the_published_one(entry: str) -> None:
    name, ranks, microbatches = entry.split("/")
    spec = library.spec(
        {"dualpipe": "dualpipe", "dualpipev": "dualpipe_v"}[name],
        ranks=int(ranks),
        microbatches=int(microbatches),
    )
    assert words(spec, PIPES[name]) == PUBLISHED[entry]


# Which of the two streams of a rank an operation belongs to, as the published sequences count.
PIPES: dict[str, Callable[[Spec, int, int], int]] = {
    "dualpipe": lambda spec, pipeline, stage: pipeline,
    "dualpipev": lambda spec, pipeline, stage: int(stage >= spec.ranks),
}


def words(spec: Spec, pipe: Callable[[Spec, int, int], int]) -> list[list[str]]:
    return [
        [
            "|".join(f"{op.kind}{pipe(spec, op.pipeline, op.stage)}.{op.microbatch}" for op in unit)
            for unit in rank
        ]
        for rank in library.sequences(spec)
    ]


@pytest.mark.parametrize("entry", [key for key in PUBLISHED if key.endswith("/comm")])
def test_dualpipe_receives_what_the_published_one_receives(entry: str) -> None:
    """DeepSeek batches its messages, and waits for all of a batch; what travels is the same, and so
    is what is computed between."""
    name, ranks, microbatches, _ = entry.split("/")
    spec = library.spec(
        {"dualpipe": "dualpipe", "dualpipev": "dualpipe_v"}[name],
        ranks=int(ranks),
        microbatches=int(microbatches),
    )
    program = library.program(spec)
    computed = words(spec, PIPES[name])
    for rank, published in enumerate(PUBLISHED[entry]):
        batches = [token for token in published if token.startswith("[")]
        assert [token for token in published if token not in batches] == computed[rank]
        theirs = sorted(re.findall(r"<(\d+):(\w+\.\d+)", " ".join(batches)))
        ours = sorted(
            (
                str(program.channels[receive.channel].source),
                f"{'F' if receive.result.kind == 'F' else 'B'}"
                f"{PIPES[name](spec, receive.result.pipeline, receive.result.stage)}"
                f".{receive.result.microbatch}",
            )
            for receive in program.ranks[rank]
            if isinstance(receive, Receive)
        )
        assert ours == theirs


def test_the_examples_kept_their_meaning() -> None:
    """The files in which the language was fixed, as they stood then, and the library's of today."""
    paths = sorted(DATA.joinpath("first").glob("*.pipe"))
    assert len(paths) == 6
    for path in paths:
        source = Source(path.name, path.read_text())
        for sizes in ({}, {"ranks": 2, "microbatches": 4}, {"ranks": 6, "microbatches": 18}):
            first = library.evaluated(source, **sizes)
            today = library.spec(first.name, **sizes)
            assert [p.stages for p in first.pipelines] == [p.stages for p in today.pipelines]
            assert first.order == today.order, path.name
