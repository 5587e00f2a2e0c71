"""`split F into …`: chains, costs, memory and rules of stages that are cut into parts."""

from fractions import Fraction

import pytest
from msgspec.structs import replace

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.evaluation import Settings, evaluate
from stretto.compiler.language.parse import parse, parse_costs
from stretto.compiler.problem.spec import Spec
from tests.support import parts

HEAD = "schedule example ranks {ranks} microbatches 4\npipeline main {{ }}\n"


def spec(text: str, ranks: int = 2, costs: str | None = None, **values: int) -> Spec:
    file = parse_costs(Source("costs", costs)) if costs is not None else None
    given = {name: Fraction(value) for name, value in values.items()}
    source = Source("example.pipe", HEAD.format(ranks=ranks) + text)
    return evaluate(parse(source), Settings(values=given, costs=file))


def refused(text: str, ranks: int = 2, **values: int) -> list[str]:
    with pytest.raises(Rejected) as caught:
        spec(text, ranks, None, **values)
    return [f"{d.code}: {d.message}" for d in caught.value.diagnostics]


def chain(found: Spec, stage: int, pipeline: int = 0) -> str:
    """`a0 b0@comm`: the chain of a stage, each part with its layer and stream."""
    return " ".join(
        part.name
        + ("" if part.layer < 0 else str(part.layer))
        + (f"@{found.streams[part.stream]}" if part.stream else "")
        for part in found.parts[pipeline][stage]
    )


DSV3 = """
split F into 2 * (att, disp on comm, mlp, comb on comm)
split B into I, W
cost F.att = 48 cost F.disp = 61 cost F.mlp = 43 cost F.comb = 73
cost I.att = 92 cost I.disp = 73 cost I.mlp = 57 cost I.comb = 44
cost W.att = 24 cost W.mlp = 53
"""


def test_a_file_means_what_was_made_by_hand() -> None:
    found = spec(DSV3, ranks=3)
    made = parts.parts_spec(3, 4, costs="dsv3", layers=2)
    assert (found.streams, found.parts) == (made.streams, made.parts)
    for a, b in zip(found.pipelines[0].stages, made.pipelines[0].stages, strict=True):
        assert replace(a, rank=0) == replace(b, rank=0)


def test_what_is_there_is_decided_stage_by_stage() -> None:
    text = """
    let dense = [1, 1, 2]
    split F[s] into embedding if s == 0,
                    dense[s] * (self on host if s > 0, feed),
                    (stages - s - 1) * (a, b on comm, c on host) if s < 1,
                    output if s == stages - 1, loss on comm if s == stages - 1
    """
    found = spec(text, ranks=3)
    assert found.streams == ("compute", "host", "comm")
    assert chain(found, 0) == "embedding feed0 a0 b0@comm c0@host a1 b1@comm c1@host"
    assert chain(found, 1) == "self0@host feed0"
    assert chain(found, 2) == "self0@host feed0 self1@host feed1 output loss@comm"
