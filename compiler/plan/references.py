"""Whether everything that a plan's header refers to is there, and no number in it is absurd. Types
were checked when it was decoded; what the plan means is for the proof.

All yield what is wrong as (path, words), for instance `$.spec.pipelines[0].stages[3].rank` and
`there are only ranks 0 to 7, not 9`.
"""

import re
from collections.abc import Iterator

from stretto.compiler.plan.findings import (
    MAX_NUMBER,
    Wrong,
    index,
    number,
    stage_of,
    unknown,
    within,
)
from stretto.compiler.problem.kinds import KINDS
from stretto.compiler.problem.spec import (
    MOST_STREAMS,
    NONE,
    JoinedPair,
    Operation,
    Spec,
    Stage,
    Tie,
)
from stretto.compiler.program.program import Channel, Reduction
from stretto.compiler.units import UNITS

COMPUTE = "compute"  # the name of the first stream
MAX_RANKS = 1 << 16
MAX_DIGITS = 4096  # of a parameter
EXACT = re.compile(r"-?[0-9]+(/0*[1-9][0-9]*)?")
MAX_OPERATIONS = 1 << 26
MAX_UNIT = 1 << 62  # above 2^53 a power of two, where costs were rounded


def check_spec(spec: Spec) -> Iterator[Wrong]:
    """The Spec's indices and numbers."""
    yield from within("$.spec.ranks", spec.ranks, 1, MAX_RANKS, "ranks")
    yield from within("$.spec.slices", spec.slices, 0, MAX_OPERATIONS, "slices")
    unfit = [*_streams(spec)]
    yield from unfit
    yield from number("$.spec.microbatches", spec.microbatches)
    for key in ("time_unit", "size_unit"):
        yield from within(f"$.spec.{key}", getattr(spec, key), 1, MAX_UNIT, "one unit")
        unit = getattr(spec, key)
        if unit > MAX_NUMBER and unit & (unit - 1):
            yield f"$.spec.{key}", f"{unit} is above 2^53, and no power of two"
    if spec.sizes_in not in ("", *UNITS):
        yield "$.spec.sizes_in", f"{spec.sizes_in!r} is no unit"
    for what, at in spec.rounded.items():
        if what not in ("times", "sizes"):
            yield "$.spec.rounded", "only `times` and `sizes` are rounded"
        yield from index(f"$.spec.rounded.{what}", at, len(spec.spans), "spans")
    if not spec.name.isprintable():
        yield "$.spec.name", "this cannot be printed"
    for name, value in spec.parameters.items():
        if len(value) > MAX_DIGITS or not (name.isidentifier() and EXACT.fullmatch(value)):
            yield "$.spec.parameters", "one of them is no name with an exact number"
    for k, span in enumerate(spec.spans):
        if min(span[1:]) < 1 or max(span[1:]) > MAX_NUMBER or not span.file.isprintable():
            yield f"$.spec.spans[{k}]", f"no text has the place {list(span[1:])}"
    names: set[str] = set()
    for p, pipeline in enumerate(spec.pipelines):
        name = pipeline.name
        if not name or not name.isprintable() or name in names:
            yield f"$.spec.pipelines[{p}].name", f"{name!r} is empty, taken, or cannot be printed"
        names.add(name)
        yield from _pipeline(spec, p)
    many = operations(spec)
    if many > MAX_OPERATIONS:
        yield "$.spec", f"{many} operations are more than the {MAX_OPERATIONS} this version reads"
    elif not unfit:  # the tables name parts of stages
        yield from _tables(spec)


def operations(spec: Spec) -> int:
    """How many forwards, backwards and weight gradients a step has at most."""
    return sum(operations_of(spec))


def operations_of(spec: Spec) -> list[int]:
    """The same by rank."""
    many = [0] * max(0, min(spec.ranks, MAX_RANKS))
    for pipeline in spec.pipelines:
        for stage in pipeline.stages:
            if 0 <= stage.rank < len(many):
                each = max(1, spec.slices, len(stage.parts))
                many[stage.rank] += 3 * max(0, pipeline.microbatches) * each
    return many


def _pipeline(spec: Spec, p: int) -> Iterator[Wrong]:
    path, pipeline = f"$.spec.pipelines[{p}]", spec.pipelines[p]
    yield from number(f"{path}.microbatches", pipeline.microbatches)
    yield from number(f"{path}.first", pipeline.first)
    yield from index(f"{path}.at", pipeline.at, len(spec.spans), "spans")
    if not pipeline.stages:
        yield f"{path}.stages", "a pipeline has at least one stage"
    for s, stage in enumerate(pipeline.stages):
        yield from index(f"{path}.stages[{s}].rank", stage.rank, spec.ranks, "ranks")
        for key in ("F", "B", "I", "W", "activation"):
            yield from number(f"{path}.stages[{s}].{key}", getattr(stage, key))
        for letter, ticks in stage.further.items():
            if letter not in KINDS:
                yield f"{path}.stages[{s}].further", unknown(letter)
            yield from number(f"{path}.stages[{s}].further.{letter}", ticks)
        yield from _figures(f"{path}.stages[{s}].parts", stage)
        size = stage.activation
        yield from within(f"{path}.stages[{s}].kept", stage.kept, 0, size, "the activation")
    if pipeline.replicates != NONE:
        yield from _copy(spec, path, p)
    for k, (q, s) in enumerate(pipeline.feeds):
        here = f"{path}.feeds[{k}]"
        wrong = [*index(f"{here}[0]", q, len(spec.pipelines), "pipelines")]
        wrong = wrong or [*index(f"{here}[1]", s, len(spec.pipelines[q].stages), "stages")]
        yield from wrong
        if not wrong and (q == p or spec.pipelines[q].microbatches != pipeline.microbatches):
            yield here, f"pipeline {q} is not another one with as many micro-batches"


def _streams(spec: Spec) -> Iterator[Wrong]:
    """The names of the streams, and the chains of the stages: of every stage one, or of none."""
    if not spec.streams:
        if spec.parts:
            yield "$.spec.parts", "there are no streams for them to run on"
        return
    if len(spec.streams) > MOST_STREAMS:
        yield "$.spec.streams", f"there are {len(spec.streams)}, and {MOST_STREAMS} are the most"
        return
    for k, name in enumerate(spec.streams):
        taken = name in spec.streams[:k] or (name == COMPUTE) != (k == 0)
        if taken or not name.isidentifier():
            yield f"$.spec.streams[{k}]", f"{name!r} is no name, or not that of this stream"
    stages = [len(line.stages) for line in spec.pipelines]
    if [len(row) for row in spec.parts] != stages:
        yield "$.spec.parts", "the stages of the pipelines have one chain each"
        return
    for p, row in enumerate(spec.parts):
        for s, chain in enumerate(row):
            path = f"$.spec.parts[{p}][{s}]"
            if not chain:
                yield path, "a stage has at least one part"
            names = {(part.name, part.layer) for part in chain}
            if len(names) < len(chain):
                yield path, "a part of it stands there twice"
            if len(chain) != len(spec.pipelines[p].stages[s].parts):
                yield f"$.spec.pipelines[{p}].stages[{s}].parts", f"its chain has {len(chain)}"
            for k, part in enumerate(chain):
                if not part.name.isidentifier():
                    yield f"{path}[{k}][0]", f"{part.name!r} is no name"
                yield from within(f"{path}[{k}][1]", part.layer, NONE, MAX_OPERATIONS, "layers")
                yield from index(f"{path}[{k}][2]", part.stream, len(spec.streams), "streams")


def _figures(path: str, stage: Stage) -> Iterator[Wrong]:
    """What the parts of a stage cost; their sums are what the stage does."""
    for k, part in enumerate(stage.parts):
        for n, value in enumerate(part):
            yield from number(f"{path}[{k}][{n}]", value)
    for kind in ("F", "I", "W") if stage.parts else ():
        if sum(getattr(one, kind) for one in stage.parts) != getattr(stage, kind):
            yield path, f"their {kind} is not that of the stage in sum"


def _copy(spec: Spec, path: str, p: int) -> Iterator[Wrong]:
    of = spec.pipelines[p].replicates
    wrong = [*index(f"{path}.replicates", of, len(spec.pipelines), "pipelines")]
    yield from wrong
    if not wrong:
        original = spec.pipelines[of]
        same = len(original.stages) == len(spec.pipelines[p].stages)
        if of == p or original.replicates != NONE or not same:
            yield f"{path}.replicates", f"pipeline {of} is no original with as many stages"


def _tables(spec: Spec) -> Iterator[Wrong]:
    """The tables beside the pipelines. Called once those are known to be of sane size."""
    stages = {(p, s) for p, line in enumerate(spec.pipelines) for s in range(len(line.stages))}
    for k, kind in enumerate(spec.overlap):
        if kind not in ("B", "I"):
            yield f"$.spec.overlap[{k}]", f"{kind} cannot overlap F"
    for k, (operation, ticks) in enumerate(spec.exceptions):
        yield from _operation(f"$.spec.exceptions[{k}][0]", operation, spec)
        yield from number(f"$.spec.exceptions[{k}][1]", ticks)
    for k, pair in enumerate(spec.pairs):
        yield from index(f"$.spec.pairs[{k}][0]", pair.rank, spec.ranks, "ranks")
        if pair.kind not in ("B", "I"):
            yield f"$.spec.pairs[{k}][2]", f"{pair.kind} cannot overlap F"
        if pair.forward not in stages or pair.backward not in stages:
            yield f"$.spec.pairs[{k}]", "it names a stage that does not exist"
        yield from number(f"$.spec.pairs[{k}][4]", pair.ticks)
    for k, (forward, backward, ticks) in enumerate(spec.exceptional_pairs):
        yield from _operation(f"$.spec.exceptional_pairs[{k}][0]", forward, spec)
        yield from _operation(f"$.spec.exceptional_pairs[{k}][1]", backward, spec)
        yield from number(f"$.spec.exceptional_pairs[{k}][2]", ticks)
    for k, (source, target, ticks) in enumerate(spec.transfers):
        yield from index(f"$.spec.transfers[{k}][0]", source, spec.ranks, "ranks")
        yield from index(f"$.spec.transfers[{k}][1]", target, spec.ranks, "ranks")
        yield from number(f"$.spec.transfers[{k}][2]", ticks)
    for key, rows in (("limits", spec.limits), ("order", spec.order)):
        if rows and len(rows) != spec.ranks:
            yield f"$.spec.{key}", f"there are {spec.ranks} ranks, and {len(rows)} entries"
    for k, limit in enumerate(spec.limits):
        if limit is not None:
            yield from number(f"$.spec.limits[{k}][0]", limit.grains)
            yield from index(f"$.spec.limits[{k}][1]", limit.at, len(spec.spans), "spans")
    for k, rule in enumerate(spec.rules):
        yield from _operation(f"$.spec.rules[{k}][0]", rule.later, spec)
        yield from _operation(f"$.spec.rules[{k}][1]", rule.earlier, spec)
        yield from index(f"$.spec.rules[{k}][2]", rule.at, len(spec.spans), "spans")
    for key in ("reduce_gradients", "unshard_weights"):
        for k, (p, s, ticks) in enumerate(getattr(spec, key)):
            yield from stage_of(f"$.spec.{key}[{k}]", p, s, spec)
            yield from number(f"$.spec.{key}[{k}][2]", ticks)
    for k, tie in enumerate(spec.ties):
        yield from _tie(f"$.spec.ties[{k}]", tie, spec)
    for k, joined in enumerate(spec.joined):
        yield from _joined(f"$.spec.joined[{k}]", joined, spec)
    if spec.jitter[0] < 0 or spec.jitter[1] < 1 or max(spec.jitter) > MAX_NUMBER:
        yield "$.spec.jitter", f"{spec.jitter[0]}/{spec.jitter[1]} is no fraction of a duration"


def _joined(path: str, pair: JoinedPair, spec: Spec) -> Iterator[Wrong]:
    """A pair that was written: its two stages, its figures, and the parts of its sequence."""
    yield from index(f"{path}[0]", pair.rank, spec.ranks, "ranks")
    if not spec.parts:
        yield path, "no stage is cut into parts, and so there is none"
        return
    wrong = []
    for n, (kind, p, s) in enumerate((pair.first, pair.second), 1):
        if kind not in KINDS:
            wrong.append((f"{path}[{n}][0]", unknown(kind)))
        wrong += stage_of(f"{path}[{n}]", p, s, spec, at=1)
    yield from wrong
    for n, value in ((3, pair.span), (4, pair.turns)):
        yield from number(f"{path}[{n}]", value)
    if len(pair.load) != len(spec.streams):
        yield f"{path}[5]", f"there are {len(spec.streams)} streams"
    for n, value in enumerate(pair.load):
        yield from number(f"{path}[5][{n}]", value)
    chains = [spec.parts[p][s] for _, p, s in (pair.first, pair.second)] if not wrong else []
    for n, (half, kind, part) in enumerate(pair.sequence if chains else ()):
        where = f"{path}[6][{n}]"
        yield from index(f"{where}[0]", half, 2, "operations")
        if kind not in KINDS:
            yield f"{where}[1]", unknown(kind)
        if half in (0, 1):
            yield from index(f"{where}[2]", part, len(chains[half]), "parts")


def _tie(path: str, tie: Tie, spec: Spec) -> Iterator[Wrong]:
    for name in (tie.name, *(place.name for place in tie.places)):
        if not name or not name.isprintable():
            yield path, f"{name!r} is empty, or cannot be printed"
    for h, holder in enumerate(tie.holders):
        for k, (p, s, _) in enumerate(holder):
            where = f"{path}.holders[{h}][{k}]"
            wrong = [*index(f"{where}[0]", p, len(spec.pipelines), "pipelines")]
            wrong = wrong or [*index(f"{where}[1]", s, len(spec.pipelines[p].stages), "stages")]
            yield from wrong


def _operation(path: str, operation: Operation, spec: Spec) -> Iterator[Wrong]:
    kind, p, s, microbatch, slice_, part = operation
    if kind not in KINDS:
        yield f"{path}[0]", unknown(kind)
    wrong = [*index(f"{path}[1]", p, len(spec.pipelines), "pipelines")]
    if not wrong:
        pipeline = spec.pipelines[p]
        wrong += index(f"{path}[2]", s, len(pipeline.stages), "stages")
        wrong += index(f"{path}[3]", microbatch, pipeline.microbatches, "micro-batches")
    if slice_ != NONE or spec.slices:
        wrong += index(f"{path}[4]", slice_, spec.slices, "slices")
    if not wrong and not spec.parts and part != NONE:
        wrong.append((f"{path}[5]", f"no stage is cut into parts, so there is none, not {part}"))
    elif not wrong and spec.parts:
        wrong += index(f"{path}[5]", part, len(spec.parts[p][s]), "parts")
    yield from wrong


def check_header(
    spec: Spec, channels: tuple[Channel, ...], reductions: tuple[Reduction, ...]
) -> Iterator[Wrong]:
    """The tables that instructions refer to. The Spec was checked before."""
    for k, channel in enumerate(channels):
        yield from index(f"$.channels[{k}][0]", channel.source, spec.ranks, "ranks")
        yield from index(f"$.channels[{k}][1]", channel.target, spec.ranks, "ranks")
        many = max(1, len(spec.streams))
        yield from index(f"$.channels[{k}][3]", channel.source_stream, many, "streams")
        yield from index(f"$.channels[{k}][4]", channel.target_stream, many, "streams")
    for k, reduction in enumerate(reductions):
        for c, (p, s, rank) in enumerate(reduction.copies):
            path = f"$.reductions[{k}].copies[{c}]"
            wrong = [*index(f"{path}[0]", p, len(spec.pipelines), "pipelines")]
            wrong = wrong or [*index(f"{path}[1]", s, len(spec.pipelines[p].stages), "stages")]
            yield from wrong
            yield from index(f"{path}[2]", rank, spec.ranks, "ranks")
