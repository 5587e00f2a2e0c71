"""Spec with a written order → the schedule of the library that has the same order
at these sizes."""

from fractions import Fraction

from stretto.compiler import library
from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.evaluation import Settings, evaluate
from stretto.compiler.language.parse import parse
from stretto.compiler.problem.spec import Operation, Spec

MOST_OPERATIONS = 100_000  # of a table that is compared: each schedule is evaluated at its sizes


def recognised(spec: Spec) -> str | None:
    """The schedule's name with its sizes, as on the command line: `zb_v --set ranks=4 …`; None
    where none of the library has this placement and, rank by rank, this sequence."""
    if sum(map(len, spec.written)) > MOST_OPERATIONS:
        return None
    sources = {name: library.read(name) for name in library.names()}
    tries = {
        name: _sizes(spec, source.text)
        for name, source in sources.items()
        if "\nsplit F" not in source.text  # of parts, which no table has
    }
    for name, sizes in sorted(tries.items(), key=lambda one: len(one[1])):  # plain ones first
        source = sources[name]
        try:
            values = {key: Fraction(value) for key, value in sizes.items()}
            other = evaluate(parse(source), Settings(values=values))
        except Rejected:
            continue
        if _same(spec, other):
            flags = " ".join(f"--set {key}={value}" for key, value in sizes.items())
            return f"{name} {flags}"
    return None


def _sizes(spec: Spec, text: str) -> dict[str, int]:
    """The values to try: ranks, micro-batches, and stages per rank under the schedule's word."""
    found = {"ranks": spec.ranks, "microbatches": spec.microbatches}
    stages = len(spec.pipelines[0].stages)
    for word, per in (("chunks", spec.ranks), ("waves", 2 * spec.ranks)):
        if f"\nparam {word} " in text and stages % per == 0:
            found[word] = stages // per
    return found


def _same(spec: Spec, other: Spec) -> bool:
    def places(one: Spec) -> list[list[int]]:
        return [[stage.rank for stage in line.stages] for line in one.pipelines]

    def orders(one: Spec) -> list[list[tuple[Operation, ...]]]:
        return [[unit.operations for unit in row] for row in one.written]

    return places(spec) == places(other) and orders(spec) == orders(other)
