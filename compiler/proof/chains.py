"""Whether the parts of a Spec and the streams of a Program can be what they say: each stage has a
chain, each part its figures and a stream, and each instruction a stream. What follows (`parts`,
`stream_rank`) relies on it."""

from collections.abc import Iterator

from stretto.compiler.diagnostics.diagnostic import Diagnostic
from stretto.compiler.problem.spec import Part, Spec, Stage
from stretto.compiler.program.program import Program
from stretto.compiler.proof.parts import COMPUTE


def chains(program: Program) -> Iterator[Diagnostic]:
    """What is wrong with them."""
    spec = program.spec
    if not spec.streams:
        if spec.parts or any(stage.parts for line in spec.pipelines for stage in line.stages):
            yield Diagnostic("wrong-stream", "stages have parts, and the schedule has no streams")
        if program.streams:
            yield Diagnostic("wrong-stream", "instructions have streams, and the schedule has none")
        return
    if len(set(spec.streams)) < len(spec.streams):
        yield Diagnostic("wrong-stream", "two streams have one name")
    if spec.slices or spec.pairs or spec.exceptional_pairs:
        text = "stages that are cut into parts have neither slices nor costs of overlapped units"
        yield Diagnostic("wrong-size", text)
    lengths = [len(line.stages) for line in spec.pipelines]
    if [len(chains) for chains in spec.parts] != lengths:
        yield Diagnostic("wrong-size", "not every stage has a chain of parts")
        return
    for line, own in zip(spec.pipelines, spec.parts, strict=True):
        for s, (stage, chain) in enumerate(zip(line.stages, own, strict=True)):
            for why in _stage(spec, stage, chain):
                yield Diagnostic("wrong-size", f"stage {s} of `{line.name}` {why}")
    yield from _streams(program)


def _stage(spec: Spec, stage: Stage, chain: tuple[Part, ...]) -> Iterator[str]:
    """What is wrong with one stage."""
    if not chain or len(stage.parts) != len(chain):
        yield f"has {len(chain)} parts, and figures of {len(stage.parts)}"
        return
    if stage.further:
        yield "has costs of kinds that parts do not have"
    if not all(0 <= part.stream < len(spec.streams) for part in chain):
        yield "has a part on a stream that does not exist"
    if any(min(figures) < 0 for figures in stage.parts):
        yield "has a part with a negative cost or size"
    for kind in ("F", "B", "I", "W"):
        of_parts = [getattr(figures, kind) for figures in stage.parts]
        together = sum(of_parts)
        if kind == "B" and spec.split_backward:
            together = stage.I + stage.W
        if together != stage.ticks(kind):
            yield f"has another {kind} than its parts together"
        for part, ticks in zip(chain, of_parts, strict=True):
            if ticks and not has(spec, part, kind):
                yield f"has a part `{part.name}` with a cost of {kind}, which it does not have"


def has(spec: Spec, part: Part, kind: str) -> bool:
    """Whether this part has operations of this kind, where its pipeline is trained."""
    if kind == "F":
        return True
    if kind == "W":
        return spec.split_backward and part.stream == COMPUTE
    return spec.split_backward == (kind == "I")


def _streams(program: Program) -> Iterator[Diagnostic]:
    """Every instruction stands on one of the streams."""
    if len(program.streams) != len(program.ranks):
        text = f"{len(program.streams)} lists of streams stand beside {len(program.ranks)} ranks"
        yield Diagnostic("wrong-stream", text)
        return
    many = len(program.spec.streams)
    for rank, (own, row) in enumerate(zip(program.ranks, program.streams, strict=True)):
        if len(own) != len(row):
            text = f"rank {rank} has {len(own)} instructions, and streams of {len(row)}"
            yield Diagnostic("wrong-stream", text)
        elif bad := next((i for i, stream in enumerate(row) if not 0 <= stream < many), None):
            text = f"rank {rank}, instruction {bad}, stands on stream {row[bad]}: there is none"
            yield Diagnostic("wrong-stream", text)
        elif row and not 0 <= row[0] < many:
            text = f"rank {rank}, instruction 0, stands on stream {row[0]}: there is none"
            yield Diagnostic("wrong-stream", text)
