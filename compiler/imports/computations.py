"""ImportedTable → what is wrong with its computations: each exactly once, of a micro-batch that
there is, and on its rank after what it needs there. Whether ranks wait for each other in a circle
is for `expand` to say, once all of them are there.
"""

from collections.abc import Iterable, Iterator

from stretto.compiler.diagnostics.diagnostic import Diagnostic
from stretto.compiler.diagnostics.wording import count
from stretto.compiler.imports.sizes import TableShape
from stretto.compiler.imports.table import COMPUTATIONS, ImportedTable, TableAction

KnownActions = dict[tuple[str, int, int, int], TableAction]
"""By kind, pipeline, stage and micro-batch the first computation of this name."""


def known(table: ImportedTable) -> KnownActions:
    """The computations of the table, each by its name, the first of each."""
    found: KnownActions = {}
    for row in table.rows:
        for one in row:
            if one.word in COMPUTATIONS:
                found.setdefault(key(one), one)
    return found


def key(one: TableAction, word: str = "") -> tuple[str, int, int, int]:
    """The computation's name, or that of another kind of the same stage and micro-batch."""
    return word or one.word, one.pipeline, one.stage, one.microbatch


def wrong_computations(
    table: ImportedTable, shape: TableShape, first: KnownActions
) -> Iterator[Diagnostic]:
    """All that is wrong with computations; `first`: what `known` says."""
    for row in table.rows:
        done: set[tuple[str, int, int, int]] = set()
        for one in row:
            if one.word not in COMPUTATIONS:
                continue
            many = shape.microbatches[one.pipeline]
            if one.microbatch >= many:
                yield _beyond(table, one, many)
            else:
                yield from _twice(table, one, first)
                yield from _early(table, one, first, done)
            done.add(key(one))
    yield from _left_out(table, shape, first)
    if table.mixes:
        yield from _mixed(table, len(shape.place[0]) - 1)


def _beyond(table: ImportedTable, one: TableAction, many: int) -> Diagnostic:
    what = f"`{table.name(one)}`: there are micro-batches 0 to {many - 1}"
    return Diagnostic("no-such-operation", what, (table.label(one),))


def _twice(table: ImportedTable, one: TableAction, first: KnownActions) -> Iterator[Diagnostic]:
    """A computation that stands elsewhere too; of B beside I or W what comes later."""
    again = first[key(one)]
    if again is not one:
        yield _repeats(table, one, again, "")
        return
    others = ("I", "W") if one.word == "B" else ("B",) if one.word in "IW" else ()
    for word in others:
        other = first.get(key(one, word))
        if other is not None and other[3:5] < one[3:5]:
            yield _repeats(table, one, other, ": `B` does what `I` and `W` do")
            return


def _repeats(table: ImportedTable, one: TableAction, other: TableAction, why: str) -> Diagnostic:
    what = f"`{table.name(one)}` runs a second time"
    if why:
        what = f"`{table.name(one)}` repeats `{table.name(other)}`"
    return Diagnostic(
        "runs-twice", what + why, (table.label(one), table.label(other, "first here"))
    )


def _early(
    table: ImportedTable,
    one: TableAction,
    first: KnownActions,
    done: set[tuple[str, int, int, int]],
) -> Iterator[Diagnostic]:
    """A backward before its forward, a weight gradient before its input gradient."""
    needs = {"B": "F", "I": "F", "W": "I"}.get(one.word)
    if needs is None or key(one, needs) in done:
        return
    other = first.get(key(one, needs))
    if other is not None:
        what = f"`{table.name(one)}` runs before `{table.name(other)}`, which it needs"
        labels = (table.label(one), table.label(other, "it comes only here"))
        yield Diagnostic("too-early", what, labels)


def _left_out(table: ImportedTable, shape: TableShape, first: KnownActions) -> Iterator[Diagnostic]:
    """What a rank should compute and never does: for each stage and kind the first, and how many
    more."""
    for p, place in enumerate(shape.place):
        for s, rank in enumerate(place):
            missing: dict[str, list[int]] = {}
            for m in range(shape.microbatches[p]):
                has = {kind for kind in COMPUTATIONS if (kind, p, s, m) in first}
                for kind in _lacks(has):
                    missing.setdefault(kind, []).append(m)
            for kind, batches in missing.items():
                yield _absent(table, rank, TableAction(kind, s, batches[0], 0, 0, 0, 0, p), batches)


def _lacks(has: set[str]) -> Iterable[str]:
    """The kinds that a micro-batch of a stage lacks beside those that it has."""
    if "F" not in has:
        yield "F"
    if not has & {"B", "I", "W"}:
        yield "B"
    elif "B" not in has:
        yield from {"I", "W"} - has


def _absent(table: ImportedTable, rank: int, one: TableAction, batches: list[int]) -> Diagnostic:
    more = f", nor {count(len(batches) - 1, 'other micro-batch', 'other micro-batches')}"
    what = f"rank {rank} never runs `{table.name(one)}`{more if batches[1:] else ''}"
    label = table.row_end(rank, "its row ends here")
    notes = (f"missing: {_ranges(batches)}",) if batches[1:] else ()
    return Diagnostic("left-out", what, (label,), notes)


def _ranges(numbers: list[int]) -> str:
    """`0 to 3, 5, 7 to 9` of ascending numbers, the first ten of them."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    words = [str(a) if a == b else f"{a} to {b}" for a, b in runs[:10]]
    return ", ".join(words) + (", …" if runs[10:] else "")


def _mixed(table: ImportedTable, last: int) -> Iterator[Diagnostic]:
    """PyTorch hands out losses by the order in which the last stage runs its forwards."""
    before: TableAction | None = None
    for row in table.rows:
        for one in row:
            if one.word != "F" or one.stage != last:
                continue
            if before is not None and one.microbatch < before.microbatch:
                what = (
                    f"`{table.name(one)}` runs after `{table.name(before)}`: PyTorch takes the "
                    "losses in this order, and would compute wrong gradients without a word"
                )
                labels = (table.label(one), table.label(before, "after this one"))
                help = "let the last stage run its forwards in the order of the micro-batches"
                yield Diagnostic("mixed-losses", what, labels, help=help)
                return
            before = one
