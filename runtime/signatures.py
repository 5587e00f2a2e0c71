"""What a rank says of a step before it begins, its *card*, and what all their cards together say.
In come one rank's micro-batches; out comes the card, as JSON. In come all cards; out comes the
*verdict*: why the step cannot begin, or the signature of every micro-batch of every pipeline, which
is the same on all ranks.
"""

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2s
from typing import Any, NamedTuple

import torch

from stretto.compiler.program.program import ProgramName
from stretto.runtime.alike import Switches, unlike
from stretto.runtime.batch import signature, tensors
from stretto.runtime.given import input_label
from stretto.runtime.microbatches import PipelineMicrobatches
from stretto.runtime.stage.precision import autocast_type
from stretto.runtime.stage.stage_module import StageModule
from stretto.runtime.topology import StageGraph, StageId
from stretto.runtime.transport import plain, to_bytes

DOING = {"train": "trains", "eval": "evaluates"}

Runs = list[list[Any]]
"""The signatures of a pipeline's micro-batches, each with how many have it one after the other."""


class StepCard(NamedTuple):
    """What one rank says: the `program` it is about to run; `fault`, why it cannot, else empty;
    `given`, by what it was given (see `_inputs`) the signatures of the micro-batches; `contents`, a
    checksum of each of these, at the first step; `state`, one of what decides on the results
    besides the batch: which parameters are frozen, which modules train. `rows`, by pipeline, what
    was cut and the lengths of its pieces; `unused`, keywords that no stage of the rank takes;
    `switches`, how its copies and holders of ties are switched."""

    program: ProgramName
    fault: str
    given: dict[str, Runs]
    contents: dict[str, int]
    state: int
    rows: dict[str, tuple[str, list[int]]]
    unused: list[str]
    switches: Switches


class StepVerdict(NamedTuple):
    """What holds for all ranks. `fault`: why the step cannot begin, else empty, and `by`, the rank
    that cannot (-1: they do not fit each other). `signatures` as text, for `read_signatures`.
    `complete`: all ranks have come to this step; `near`: they see one board."""

    fault: str
    by: int
    signatures: str
    complete: bool
    near: bool = False


class StepSignatures(NamedTuple):
    """By pipeline the signature of each micro-batch, short: equal ones have equal inputs, also of
    the pipelines that feed theirs, in shape and type."""

    of: list[list[str]]


def step_card(
    program: ProgramName,
    microbatches: Mapping[int, PipelineMicrobatches],
    state: int,
    alike: Switches,
    whole: bool,
) -> StepCard:
    """Of a rank that could cut its batch; `whole`: with checksums of what it holds."""
    inputs = {key: values for p, own in microbatches.items() for key, values in _inputs(p, own)}
    given = {key: _runs(values) for key, values in inputs.items()}
    contents = {key: _checksum(values) for key, values in inputs.items()} if whole else {}
    rows = {str(p): (own.label, list(own.lengths)) for p, own in microbatches.items() if own.label}
    unused = sorted({name for own in microbatches.values() for name in own.unused})
    return StepCard(program, "", given, contents, state, rows, unused, alike)


def faulty_card(program: ProgramName, fault: str) -> StepCard:
    """Of a rank that cannot begin."""
    return StepCard(program, fault, {}, {}, 0, {}, [], {})


def state_of(stages: Iterable[StageModule]) -> "ModuleState":
    """See `ModuleState`."""
    modules = [part for stage in stages for part in stage.module.modules()]
    parameters = [p for stage in stages for p in stage.module.parameters()]
    return ModuleState(modules, parameters)


class ModuleState(NamedTuple):
    """What may be switched in a rank's stages between steps."""

    modules: list[torch.nn.Module]
    parameters: list[torch.nn.Parameter]

    def checksum(self) -> int:
        """The same while nothing is frozen, melted, put into another mode, or under another
        autocast."""
        flags = [p.requires_grad for p in self.parameters]
        flags += [module.training for module in self.modules]
        return zlib.crc32(bytes(flags) + autocast_type().encode())


def judge(cards: Sequence[StepCard], graph: StageGraph) -> StepVerdict:
    """By rank the cards of all; with a single one that is faulty, of the rank that judges."""
    for rank, one in enumerate(cards):
        if one.fault:
            return StepVerdict(one.fault, rank, "", len(cards) > 1)
    for rank, one in enumerate(cards):
        if one.program != cards[0].program:
            fault = f"rank {rank} {DOING[one.program]} while rank 0 {DOING[cards[0].program]}"
            return StepVerdict(fault, -1, "", True)
    agreed: dict[str, Runs] = {}
    for key in dict.fromkeys(key for one in cards for key in one.given):
        givers = [rank for rank, one in enumerate(cards) if key in one.given]
        first = _owner(graph, key, givers)
        for rank in givers:
            fault = _difference(cards, graph, key, (first, rank))
            if fault:
                return StepVerdict(fault, -1, "", True)
        agreed[key] = cards[first].given[key]
    fault = _unlike_lengths(cards) or _unused(cards, agreed)
    fault = fault or unlike(graph, [one.switches for one in cards])
    if fault:
        return StepVerdict(fault, -1, "", True)
    text = json.dumps([[one.state for one in cards], agreed])
    return StepVerdict("", -1, text, True)


def _unlike_lengths(cards: Sequence[StepCard]) -> str:
    """Where ranks were given things of unlike length: x one, the target another."""
    first: dict[str, tuple[int, str, list[int]]] = {}
    for rank, one in enumerate(cards):
        for p, (label, lengths) in one.rows.items():
            other, theirs, expected = first.setdefault(p, (rank, label, lengths))
            if lengths != expected:
                rows, many = sum(expected), sum(lengths)
                cut = "" if rows != many else ", cut in another way"
                return (
                    f"{theirs} has {rows} rows on rank {other} and {label} {many} on rank {rank}"
                    f"{cut}"
                )
    return ""


def _unused(cards: Sequence[StepCard], agreed: Mapping[str, Runs]) -> str:
    """Where a rank was given a keyword that no stage takes, on no rank."""
    used = {key.split(" ")[2] for key in agreed if key.count(" ") == 2}
    for rank, one in enumerate(cards):
        for name in one.unused:
            if name not in used:
                return f"no stage takes `{name}`, which rank {rank} was given"
    return ""


def read_signatures(text: str, graph: StageGraph) -> StepSignatures:
    """The signatures of a verdict."""
    state, agreed = json.loads(text)
    pipelines, slices = graph.spec.pipelines, graph.spec.slices or 1
    own: list[list[list[Any]]] = [  # what a slice gives may depend on how many came before it
        [[m % slices] if slices > 1 else [] for m in range(p.microbatches * slices)]
        for p in pipelines
    ]
    for key, runs in agreed.items():
        p, _, what = key.partition(" ")
        for m, one in enumerate(_spread(runs)):
            own[int(p)][m].append([what, one])
    feeding: dict[int, list[int]] = {p: [] for p in range(len(pipelines))}
    for p, pipeline in enumerate(pipelines):
        for q in sorted({q for q, _ in pipeline.feeds}):
            feeding[q].append(p)

    def whole(p: int, m: int) -> list[Any]:
        return [own[p][m], *[whole(q, m) for q in feeding[p]]]

    return StepSignatures(
        [
            [_short([state, whole(p, m)]) for m in range(pipeline.microbatches * slices)]
            for p, pipeline in enumerate(pipelines)
        ]
    )


def _inputs(p: int, own: PipelineMicrobatches) -> Iterator[tuple[str, Sequence[Any]]]:
    """What a pipeline is given, each by a key that is the same on all ranks that are given it:
    positional arguments, keywords, target; and by a key of its own what a single rank is given, the
    further keywords of a stage."""
    if own.x:
        args = [one.args for one in own.x]
        if any(args):
            yield f"{p} x", [one[0] if len(one) == 1 else one for one in args]
        for name in own.x[0].kwargs:
            yield f"{p} x {name}", [one.kwargs[name] for one in own.x]
    if own.target:
        yield f"{p} target", own.target
    for stage, more in own.further.items():
        for name in more.kwargs[0] if more.kwargs else ():
            yield f"{p} {stage} {name}", [one[name] for one in more.kwargs]


def _spread(runs: Runs) -> list[str]:
    return [one for one, many in runs for _ in range(many)]


def _short(value: Any) -> str:
    return blake2s(json.dumps(value).encode(), digest_size=8).hexdigest()


def _runs(values: Sequence[Any]) -> Runs:
    found: Runs = []
    before: Any = None
    for value in values:
        if found and _are_alike(before, value):
            found[-1][1] += 1
            continue
        one, before = signature(value), value
        if found and found[-1][0] == one:
            found[-1][1] += 1
        else:
            found.append([one, 1])
    return found


def _are_alike(a: Any, b: Any) -> bool:
    """Whether their signatures are the same, where that is seen at once: of two tensors."""
    return type(a) is type(b) is torch.Tensor and a.shape == b.shape and a.dtype is b.dtype


def _checksum(values: Sequence[Any]) -> int:
    """Of all that the tensors hold."""
    total = 0
    for tensor in tensors(list(values)):
        if tensor.layout == torch.strided and tensor.numel() and not tensor.is_meta:
            memory = to_bytes(plain(tensor.detach().cpu()))
            total = zlib.crc32(memory.numpy().data, total)
    return total


def _owner(graph: StageGraph, key: str, givers: Sequence[int]) -> int:
    """With whose batch the others' are compared: that of the rank that needs it."""
    p, what, *_ = key.split(" ")
    last = len(graph.spec.pipelines[int(p)].stages) - 1
    needs = graph.topology.rank_of(StageId(int(p), last if what == "target" else 0))
    return needs if needs in givers else givers[0]


def _difference(
    cards: Sequence[StepCard], graph: StageGraph, key: str, ranks: tuple[int, int]
) -> str:
    """How the batch of the second rank differs from that of the first; empty where it does not."""
    p, what, *names = key.split(" ")
    label = input_label(graph, f"`{names[0]}`" if names else what, int(p))
    first, rank = ranks
    ours, theirs = cards[first].given[key], cards[rank].given[key]
    if ours != theirs:
        if len(ours) == len(theirs) == 1:
            return (
                f"{label} has micro-batches of {theirs[0][0]} on rank {rank}, but of "
                f"{ours[0][0]} on rank {first}"
            )
        pairs = zip(_spread(ours), _spread(theirs), strict=True)
        m, (here, there) = next((m, pair) for m, pair in enumerate(pairs) if pair[0] != pair[1])
        return f"micro-batch {m} of {label} is {there} on rank {rank}, but {here} on rank {first}"
    if cards[first].contents.get(key) != cards[rank].contents.get(key):
        return (
            f"{label} has other contents on rank {rank} than on rank {first}: every rank must be "
            "given the same batch (the same seed, the same order of the data)"
        )
    return ""
