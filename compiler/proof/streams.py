"""The ranks of a Program with streams, after each list was followed by itself: whether every part
was done (`missing_parts`), whether all streams together finish, and what they hold (`run_streams`).
"""

from collections.abc import Iterator, Sequence
from itertools import chain

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label, Rejected
from stretto.compiler.problem.spec import NONE, Operation
from stretto.compiler.program.program import Program
from stretto.compiler.proof.ledger import Ledger, RankTrace
from stretto.compiler.proof.messages import Wording
from stretto.compiler.proof.parts import PartObligations
from stretto.compiler.proof.simulate import ProcessTimes, run_together
from stretto.compiler.proof.stream_memory import amounts, at_any_speed, planned


def missing_parts(parts: PartObligations, ledger: Ledger, words: Wording) -> Iterator[Diagnostic]:
    """Every part of every stage was done; of each stage the first that was not is told."""
    told: dict[tuple[int, int], tuple[Operation, int]] = {}
    for (kind, p, s, x), one in parts.of.items():
        done = ledger.parts.placed[one.base : one.base + one.microbatches]
        if missing := done.count(NONE):
            first = Operation(kind, p, s, done.index(NONE), NONE, x)
            before, many = told.get((p, s), (first, 0))
            told[p, s] = before, many + missing
    for (p, s), (operation, many) in told.items():
        pipeline = parts.spec.pipelines[p]
        rest = f", nor {many - 1} other parts of this stage" if many > 1 else ""
        yield Diagnostic(
            "missing-operation",
            f"rank {pipeline.stages[s].rank} never runs {words.operation(operation)}{rest}",
            (Label(parts.spec.spans[pipeline.at], "this pipeline"),),
        )


def run_streams(
    program: Program,
    parts: PartObligations,
    traces: Sequence[RankTrace],
    ledger: Ledger,
    words: Wording,
) -> tuple[ProcessTimes, list[RankTrace], list[Diagnostic]]:
    """Run all streams, each for itself; then, since a host may have to issue them in one sequence
    and wait for each, all lists by one thread a rank. Returns the times, the traces with the
    planned peaks, and where a rank may hold more than its limit at other speeds. Raises
    `Rejected`, where either cannot finish, or a rule between ranks is not kept."""
    streams = list(chain.from_iterable(trace.processes for trace in traces))
    clock = run_together(program, streams, ledger, words, parts.across)
    threads = [trace.together for trace in traces if trace.together is not None]
    try:
        run_together(program, threads, ledger, words, {})
    except Rejected as rejected:
        note = "each stream for itself could go on: one thread that runs the list in its sequence"
        raise Rejected(
            [
                Diagnostic(d.code, d.message, d.labels, (*d.notes, f"{note} cannot"), d.help)
                for d in rejected.diagnostics
            ]
        ) from None
    found, beyond = [], list[Diagnostic]()
    limits = program.spec.limits or (None,) * len(traces)
    for rank, (trace, limit) in enumerate(zip(traces, limits, strict=True)):
        held = amounts(parts, rank)
        trace = planned(trace, held, clock.began, ledger.parts, limit)
        if limit is not None and trace.activations <= limit.grains:
            beyond += at_any_speed(program, rank, held, ledger.parts, limit, words)
        found.append(trace)
    return clock, found, beyond
