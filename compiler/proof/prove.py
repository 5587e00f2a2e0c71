"""Program → Proof. Shows, from the Program and its Spec alone, that the step does what the Spec
says, whatever the timing; or says what is wrong. How the Program was made does not matter.

Four steps, each linear. What must happen is derived from the Spec anew (`obligations`). Each
rank's list is followed by itself (`rank`). Channel by channel, the results sent are compared
with those that the receives claim. Then all lists run together, once, under the hardest transport:
either they finish, and then they do under every timing (the argument is in `docs/proof.md`), or
the circle in which ranks wait for each other is the explanation. The clock runs along, and every
claim is recomputed.
"""

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label, Rejected
from stretto.compiler.problem.spec import Operation, Spec, by_stream, digest
from stretto.compiler.program.program import Channel, Claims, Compute, Program, ProgramName
from stretto.compiler.proof.chains import chains
from stretto.compiler.proof.collectives import collectives
from stretto.compiler.proof.findings import reject
from stretto.compiler.proof.kinds import KINDS
from stretto.compiler.proof.ledger import Ledger, RankTrace
from stretto.compiler.proof.messages import Excess, Wording, over_limit
from stretto.compiler.proof.obligations import Obligations, original
from stretto.compiler.proof.parts import PartObligations
from stretto.compiler.proof.rank import walk
from stretto.compiler.proof.simulate import ProcessTimes, run_together
from stretto.compiler.proof.ties import ties

ASSUMPTIONS = (
    "Each rank runs its list from top to bottom, one instruction after another.",
    "The messages of one channel arrive in the order in which they were sent, unchanged, each "
    "into the receive that was posted for it.",
    "A message whose receive was posted is taken after a finite time. Until the receive is posted "
    "a send need not end: no buffering is relied upon.",
    "Channels do not hold each other up.",
    "A sum ends once all its ranks have begun it.",
    "A computation uses only the weights of its stage, the slots it reads and what earlier "
    "computations of that stage and micro-batch left behind.",
    "Every activation, gradient and slot has the size that the schedule gives it; memory for "
    "weights, optimizer state and temporary values is not counted.",
    "The times are those of the schedule's costs. What real runs take does not bear on whether "
    "the step finishes, nor on its result.",
)
"""What a proof rests on, as `stretto check --assumptions` prints it."""

STREAM_ASSUMPTIONS = (
    "Each stream of a rank runs its own instructions in the sequence of the rank's list, one after "
    "another, at whatever speed; an `await` holds up its own stream alone.",
    "The streams of a rank do not hold each other up (on CUDA, `CUDA_DEVICE_MAX_CONNECTIONS` is "
    "above 1).",
    "Collectives inside a part belong to the model: they have a process group for each stream, and "
    "all ranks of such a group run the same rank's list.",
    *ASSUMPTIONS[1:],
)
"""What the proof of a Program with streams rests on."""


class Proof(Struct, frozen=True):
    """What was shown of a Program: that all of `docs/proof.md` holds, and these figures, computed
    anew."""

    name: ProgramName
    claims: Claims
    operations: int
    messages: int
    assumptions: tuple[str, ...] = ASSUMPTIONS


def prove(program: Program, claims: Claims | None = None) -> Proof:
    """Prove the Program, and that `claims`, if given, say of it what is so. All indices in the
    Spec must be in range, as `plan` and `evaluate` see to.

    Raises `Rejected` with what was found: first what is wrong within single lists, else what is
    wrong between them, else with the figures.
    """
    spec = program.spec
    reject([*chains(program)])
    parts = PartObligations(spec, program.name) if spec.streams else None
    obligations = parts.stages if parts else Obligations(spec, program.name)
    reject(
        [
            *_sizes(spec),
            *ties(spec),
            *collectives(spec, obligations),
            *_tables(program, obligations, Wording(program, [], [])),
            *_shares(spec),
        ]
    )
    # has room for each channel: there are none too many
    ledger = Ledger.of(program, obligations.entries, parts.entries if parts else 0)
    words = Wording(program, ledger.sent, ledger.sent_at)
    clock, ranks, beyond = (
        _with_streams(program, parts, ledger, words)
        if parts
        else _by_ranks(program, obligations, ledger, words)
    )
    found = _figures(clock, ranks)
    reject(
        [
            *_limits(program, ranks, words),
            *beyond,
            *_orders(program, ranks, words),
            *_claims(found, claims),
        ]
    )
    many = sum(len(results) for results in ledger.sent)
    assumptions = STREAM_ASSUMPTIONS if parts else ASSUMPTIONS
    operations = sum(len(u) for r in ranks for u in r.units)
    return Proof(program.name, found, operations, many, assumptions)


Followed = tuple[ProcessTimes, list[RankTrace], list[Diagnostic]]
"""The times, what each rank does, and what is wrong with its memory at other speeds."""


def _by_ranks(
    program: Program, obligations: Obligations, ledger: Ledger, words: Wording
) -> Followed:
    """Follow each list, then all together: each rank is a process."""
    ranks = [walk(program, obligations, rank, ledger, words) for rank in range(len(program.ranks))]
    reject(
        [
            *ledger.findings,
            *_missing(obligations, ledger, words),
            *_messages(program, ledger, words),
        ]
    )
    processes = [one for trace in ranks for one in trace.processes]
    return run_together(program, processes, ledger, words, obligations.across), ranks, []


def _with_streams(
    program: Program, parts: PartObligations, ledger: Ledger, words: Wording
) -> Followed:
    """Likewise where each stream of a rank is a process."""
    from stretto.compiler.proof.stream_rank import walk_streams
    from stretto.compiler.proof.streams import missing_parts, run_streams

    ranks = [
        walk_streams(program, parts, rank, ledger, words) for rank in range(len(program.ranks))
    ]
    reject(
        [
            *ledger.findings,
            *missing_parts(parts, ledger, words),
            *_messages(program, ledger, words),
        ]
    )
    return run_streams(program, parts, ranks, ledger, words)


def prove_all(
    programs: Mapping[ProgramName, Program], claims: Mapping[ProgramName, Claims] | None = None
) -> dict[ProgramName, Proof]:
    """Prove the Programs of one plan, each with what is claimed of it, and that an evaluation runs
    the forwards of the step in the step's order. Raises `Rejected`."""
    proofs: dict[ProgramName, Proof] = {
        name: prove(program, claims[name] if claims else None) for name, program in programs.items()
    }
    if programs.keys() >= {"train", "eval"}:
        train, evaluation = programs["train"], programs["eval"]
        for rank in range(train.spec.ranks):
            if _forwards(train, rank) != _forwards(evaluation, rank):
                text = f"rank {rank} runs the forwards of the evaluation in another order"
                raise Rejected([Diagnostic("other-order", f"{text} than those of the step")])
    return proofs


def _forwards(program: Program, rank: int) -> list[Operation]:
    """In the sequence of the list; stream by stream, where it has several."""
    operations = [one.operation for one in program.ranks[rank] if type(one) is Compute]
    evaluates = {letter for letter, kind in KINDS.items() if kind.evaluates}
    found = [one for one in operations if one[0] in evaluates]
    if program.spec.parts:
        return [one for (one,) in by_stream([(one,) for one in found], program.spec.parts)]
    return found


# ---------------------------------------------------------------------------- the tables


def _sizes(spec: Spec) -> Iterator[Diagnostic]:
    """Nothing takes a negative time or size, and an input gradient frees, if anything."""
    for pipeline in spec.pipelines:
        for s, stage in enumerate(pipeline.stages):
            if (
                min(stage.F, stage.B, stage.I, stage.W, *stage.further.values()) < 0
                or not 0 <= stage.kept <= stage.activation
            ):
                text = f"stage {s} of `{pipeline.name}` has a negative cost or size, or keeps more"
                yield Diagnostic("wrong-size", f"{text} after I than its forward left")
    ticks = [
        *(one.ticks for one in spec.exceptions),
        *(one.ticks for one in spec.pairs),
        *(one.ticks for one in spec.exceptional_pairs),
        *(one.ticks for one in spec.transfers),
    ]
    if min(ticks, default=0) < 0:
        yield Diagnostic("wrong-size", "an operation, a pair or a transfer has a negative duration")
    if any(limit is not None and limit.grains < 0 for limit in spec.limits):
        yield Diagnostic("wrong-size", "a limit of activations is below 0")


def _tables(program: Program, obligations: Obligations, words: Wording) -> Iterator[Diagnostic]:
    """Channels join two ranks, once for each kind of traffic; the sums are those of the Spec's
    replicated stages."""
    if len(program.ranks) != obligations.spec.ranks:
        yield Diagnostic(
            "wrong-rank",
            f"the schedule has {obligations.spec.ranks} ranks, the program {len(program.ranks)}",
        )
    yield from _channels(program, obligations)
    needed = set(obligations.reductions)
    for k, reduction in enumerate(program.reductions):
        if reduction not in needed:
            again = reduction in obligations.reductions
            why = (
                "it is there already" if again else "the schedule has no such copies, in this order"
            )
            yield Diagnostic(
                "wrong-sum", f"sum number {k}, the {words.reduction(reduction)}: {why}"
            )
        needed.discard(reduction)
    if obligations.train:
        for reduction in sorted(needed):
            yield Diagnostic("wrong-sum", f"the {words.reduction(reduction)} is missing")


def _channels(program: Program, obligations: Obligations) -> Iterator[Diagnostic]:
    """Of those that exist twice, and of those that join no two ranks, the first, and how many."""
    seen: set[Channel] = set()
    wrong: dict[str, tuple[str, int]] = {}
    streams = range(max(len(obligations.spec.streams), 1))
    for c, channel in enumerate(program.channels):
        source, target, traffic, *ends = channel
        known = 0 <= source < obligations.spec.ranks and 0 <= target < obligations.spec.ranks
        known = known and all(stream in streams for stream in ends)
        if not known or source == target or channel in seen:
            why = "exists twice" if channel in seen else "joins no two ranks of the schedule"
            first, many = wrong.get(why, ("", 0))
            first = first or f"channel {c}, {traffic}s from rank {source} to rank {target}, {why}"
            wrong[why] = first, many + 1
        seen.add(channel)
    for first, many in wrong.values():
        more = f"; and {many - 1} more like it" if many > 1 else ""
        yield Diagnostic("wrong-channel", first + more)


def _shares(spec: Spec) -> Iterator[Diagnostic]:
    """The copies of a pipeline take all micro-batches of their model between them, each once."""
    expected: dict[int, int] = {}
    for p, pipeline in enumerate(spec.pipelines):
        group = original(p, pipeline)
        first = expected.get(group, 0)
        if pipeline.first != first:
            yield Diagnostic(
                "wrong-share",
                f"`{pipeline.name}` begins with micro-batch {pipeline.first} of its model: "
                f"{first} comes next",
            )
        expected[group] = first + pipeline.microbatches


# ---------------------------------------------------------------------------- all of it, once


def _missing(obligations: Obligations, ledger: Ledger, words: Wording) -> Iterator[Diagnostic]:
    """Every operation was done: F, where the pipeline trains either B or I and W, and what else
    is required."""
    width = obligations.width
    for (p, s), base in obligations.bases.items():
        pipeline = obligations.spec.pipelines[p]
        states = ledger.done[base : base + pipeline.microbatches * width]
        complete = obligations.complete(p)
        many = len(states) - sum(states.count(state) for state in complete)
        if many == 0:
            continue
        entry = next(e for e, state in enumerate(states) if state not in complete)
        state = states[entry]
        kind = obligations.first_missing(p, state)
        at = entry // width, entry % width if obligations.spec.slices else -1
        operation = Operation(kind, p, s, *at)
        rank = pipeline.stages[s].rank
        rest = f", nor {many - 1} other micro-batches of this stage whole" if many > 1 else ""
        yield Diagnostic(
            "missing-operation",
            f"rank {rank} never runs {words.operation(operation)}{rest}",
            (Label(obligations.spec.spans[pipeline.at], "this pipeline"),),
        )


def _messages(program: Program, ledger: Ledger, words: Wording) -> Iterator[Diagnostic]:
    """The n-th message of a channel is what the n-th receive claims. Of each channel the first
    difference is told."""
    for c, (source, target, *_) in enumerate(program.channels):
        sent, posted = ledger.sent[c], ledger.posted[c]
        if sent == posted:
            continue
        pairs = zip(sent, posted, strict=False)
        n = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(sent), len(posted)))
        if n == len(posted):
            place = source, ledger.sent_at[c][n]
            yield words.finding("unmatched-message", place, f"rank {target} never receives it")
        elif n == len(sent):
            place = target, ledger.posted_at[c][n]
            yield words.finding("unmatched-message", place, f"rank {source} never sends it")
        else:
            yield words.finding(
                "wrong-message",
                (target, ledger.posted_at[c][n]),
                f"message {n} of this channel brings {words.operation(sent[n])} instead",
                ((source, ledger.sent_at[c][n]), "sent here"),
            )


# ---------------------------------------------------------------------------- figures


def _figures(clock: ProcessTimes, ranks: Sequence[RankTrace]) -> Claims:
    """Of the streams of a rank the first alone is busy."""
    width = len(clock.first) // len(ranks)
    spans = [
        max(clock.last[k : k + width])
        - min((t for t in clock.first[k : k + width] if t >= 0), default=0)
        for k in range(0, len(clock.first), width)
    ]
    return Claims(
        makespan=max([*clock.last, *clock.beside], default=0),
        span=max(spans, default=0),
        busy=sum(clock.busy[::width]),
        activations=tuple(rank.activations for rank in ranks),
        receives=tuple(rank.receives for rank in ranks),
        outputs=tuple(rank.outputs for rank in ranks),
    )


def _limits(program: Program, ranks: Sequence[RankTrace], words: Wording) -> Iterator[Diagnostic]:
    """Where a rank first holds more than its limit. Ranks that break the same limit at the same
    place of the text are told as one."""
    spec = program.spec
    groups: dict[tuple[int, int], list[Excess]] = {}
    for rank, (trace, limit) in enumerate(zip(ranks, spec.limits, strict=False)):
        if limit is not None and trace.activations > limit.grains:
            compute = program.ranks[rank][trace.over_at]
            assert isinstance(compute, Compute)
            excess = Excess(
                (rank, trace.over_at), trace.over, trace.activations, limit, trace.units
            )
            groups.setdefault((compute.at, limit.at), []).append(excess)
    for group in groups.values():
        yield over_limit(words, group)


def _orders(program: Program, ranks: Sequence[RankTrace], words: Wording) -> Iterator[Diagnostic]:
    """Where the author wrote the order, each rank follows it. The digest stands for all of it;
    only while the Spec still has the orders themselves can an evaluation's, or a partial one, be
    compared."""
    spec = program.spec
    beside = {letter for letter, kind in KINDS.items() if not kind.ordered}
    evaluates = {letter for letter, kind in KINDS.items() if kind.evaluates}
    for rank, trace in enumerate(ranks):
        whole = bool(spec.order) and spec.order[rank] != ""
        ran = trace.units
        if beside:
            ran = [unit for unit in ran if unit[0].kind not in beside]
        if program.name == "train" and whole and digest(ran) != spec.order[rank]:
            yield _other_order(spec, rank, trace, words)
        elif spec.written and (program.name == "eval" or not whole):
            units = [*by_stream([unit.operations for unit in spec.written[rank]], spec.parts)]
            if program.name == "eval":
                units = [(one,) for unit in units for one in unit if one[0] in evaluates]
            run = iter(ran)
            if not all(unit in run for unit in units):
                yield _other_order(spec, rank, trace, words)


def _other_order(spec: Spec, rank: int, trace: RankTrace, words: Wording) -> Diagnostic:
    text = f"rank {rank} does not run its operations in the order that was written for it"
    if not spec.written:
        return Diagnostic("other-order", text)
    at = {unit.operations: unit.at for unit in spec.written[rank]}
    for k, (asked, found) in enumerate(zip(by_stream(at, spec.parts), trace.units, strict=False)):
        if asked != found:
            wanted, runs = (
                " | ".join(words.operation(o) for o in operations) for operations in (asked, found)
            )
            text += f": unit {k} is {wanted}, it runs {runs}"
            return Diagnostic("other-order", text, (Label(spec.spans[at[asked]], wanted),))
    return Diagnostic("other-order", text)


def _claims(found: Claims, claims: Claims | None) -> Iterator[Diagnostic]:
    """What was claimed is what was found."""
    for field_ in Claims.__struct_fields__ if claims is not None else ():
        claimed, real = getattr(claims, field_), getattr(found, field_)
        if claimed == real:
            continue
        if isinstance(real, int):
            yield Diagnostic("false-claim", f"the plan claims `{field_}` {claimed}, it is {real}")
            continue
        if len(claimed) != len(real):
            text = f"the plan claims `{field_}` of {len(claimed)} ranks, there are {len(real)}"
            yield Diagnostic("false-claim", text)
            continue
        for rank, (a, b) in enumerate(zip(claimed, real, strict=True)):
            if a != b:
                text = f"the plan claims `{field_}` {a} of rank {rank}, it is {b}"
                yield Diagnostic("false-claim", text)
