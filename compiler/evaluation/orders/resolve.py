"""How operations take their places in the order of one rank: what a mention leaves out is filled in
here, and every operation is given once."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from stretto.compiler.diagnostics.diagnostic import Label
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.expressions.values import show
from stretto.compiler.evaluation.orders.cursor import UNSCHEDULED, Cursor
from stretto.compiler.evaluation.placement import ResolvedPipeline
from stretto.compiler.evaluation.reports import (
    EvalError,
    SecondaryError,
    diagnosis,
    eval_error,
    ranks_in_words,
)
from stretto.compiler.problem.spec import NONE, Kind, Operation, Unit


class Request(NamedTuple):
    """A mention with its expressions computed; None is to be filled in."""

    kind: Kind
    pipeline: int | None
    stage: int | None
    microbatch: int | None
    slice: int | None
    optional: bool
    place: Span


class Resolver:
    """The order of one rank while it is made."""

    def __init__(
        self,
        rank: int,
        pipelines: tuple[ResolvedPipeline, ...],
        held: list[tuple[int, int]],
        slices: int,
        spans: Callable[[int], Span],
        microbatches_at: Callable[[int], Label],
    ):
        self.rank = rank
        self.pipelines = pipelines
        self.cut = slices > 0
        self.slices = slices
        self.span = spans
        self.microbatches_at = microbatches_at
        self.cursors = {(p, s): Cursor(pipelines[p], s, slices) for p, s in held}
        self.of: dict[int, list[Cursor]] = {}
        for (p, _), cursor in self.cursors.items():
            self.of.setdefault(p, []).append(cursor)
        self.single = {p: cursors[0] for p, cursors in self.of.items() if len(cursors) == 1}
        self.units: list[Unit] = []
        self.turn = 0  # how many I's have taken their places
        self.failures = 0

    # ---- Taking

    def resolve(self, request: Request, at: int) -> Operation | None:
        """The operation that is request for, which is now given to the text `at`; None if it is
        optional and none is left. Raises `EvalError`."""
        kind, p, s, m, k, optional, place = request
        if kind == "W" and m is None:
            return self._oldest(request, at)
        cursor = self.single.get(p) if s is None and p is not None else None
        if cursor is None:
            cursor = self._track(request)
            if cursor is None:
                return None
        if kind == "F":
            number = cursor.next_forward
            given = cursor.forward
        else:
            number = cursor.next_backward
            given = cursor.backward
            if not given:
                self._with_backward(request, cursor)
        if m is None and k is None:
            total = len(given)
            while number < total and given[number] != UNSCHEDULED:
                number += 1
            if kind == "F":
                cursor.next_forward = number
            else:
                cursor.next_backward = number
            if number == total:
                if optional:
                    return None
                raise self._runs_out(request, cursor)
        else:
            found = self._numbered(request, cursor)
            if found is None:
                return None
            number = found
        return self._give(kind, cursor, number, at, place)

    def _give(self, kind: Kind, cursor: Cursor, number: int, at: int, place: Span) -> Operation:
        if kind == "F":
            cursor.forward[number] = at
            microbatch, k = (number, 0) if cursor.slices == 1 else cursor.place(number, False)
        else:
            if kind != "I":
                if cursor.weight[number] != UNSCHEDULED:
                    raise self._twice(kind, cursor, number, cursor.weight[number], place)
                cursor.weight[number] = at
            if kind != "W":
                cursor.backward[number] = at
                if kind == "B":
                    cursor.full[number] = 1
                else:
                    self.turn += 1
                    cursor.waiting.append((self.turn, number))
            microbatch, k = (number, 0) if cursor.slices == 1 else cursor.place(number, True)
        return Operation(
            kind, cursor.pipeline.index, cursor.stage, microbatch, k if self.cut else NONE, NONE
        )

    def _numbered(self, request: Request, cursor: Cursor) -> int | None:
        """The number of an operation whose micro-batch, slice or both are named."""
        kind, _, _, m, k, optional, place = request
        backward = kind != "F"
        given = cursor.forward if kind == "F" else cursor.weight if kind == "W" else cursor.backward
        if m is not None and not 0 <= m < cursor.microbatches:
            raise self._no_microbatch(request, cursor, m)
        if k is not None and not 0 <= k < self.slices:
            raise self._no_slice(request, cursor, k)
        if m is not None and k is not None:
            numbers = iter([cursor.number(m, k, backward)])
        elif m is not None:
            numbers = iter(range(m * cursor.slices, (m + 1) * cursor.slices))
        else:
            assert k is not None
            numbers = iter(cursor.number(x, k, backward) for x in range(cursor.microbatches))
        number = last = None
        for number in numbers:
            if given[number] == UNSCHEDULED:
                return number
            last = number
        if optional:
            return None
        if m is None or last is None:
            raise self._runs_out(request, cursor)
        raise self._twice(kind, cursor, last, given[last], place)

    def _oldest(self, request: Request, at: int) -> Operation | None:
        """The weight gradient that waits longest among those that were request for."""
        kind, p, s, _, k, optional, place = request
        if p is not None or s is not None:
            self._holds(request)
        best: tuple[int, int] | None = None
        owner: Cursor | None = None
        for (q, stage), cursor in self.cursors.items():
            if (p is None or p == q) and (s is None or s == stage):
                waits = cursor.oldest() if k is None else self._oldest_slice(request, cursor, k)
                if waits is not None and (best is None or waits < best):
                    best, owner = waits, cursor
        if best is None or owner is None:
            if optional:
                return None
            raise self._none_waits(request)
        return self._give(kind, owner, best[1], at, place)

    def _oldest_slice(self, request: Request, cursor: Cursor, k: int) -> tuple[int, int] | None:
        if not 0 <= k < self.slices:
            raise self._no_slice(request, cursor, k)
        for turn, number in cursor.waiting:
            if cursor.weight[number] == UNSCHEDULED and cursor.place(number, True)[1] == k:
                return turn, number
        return None

    # ---- Finding the stage

    def _track(self, request: Request) -> Cursor | None:
        """The stage that is meant; None if it is optional and there is none here."""
        kind, p, s, _, _, optional, place = request
        if p is not None and s is not None:
            cursor = self.cursors.get((p, s))
            if cursor is None:
                raise self._elsewhere(request, p, s)
            return self._with_backward(request, cursor)
        if p is None:
            fit = [q for q in self.of if kind == "F" or not self.pipelines[q].forward_only]
            if len(fit) != 1:
                return self._no_pipeline(request, fit)
            p = fit[0]
            if s is not None:
                cursor = self.cursors.get((p, s))
                if cursor is None:
                    raise self._elsewhere(request, p, s)
                return cursor
        cursors = self.of.get(p, [])
        if len(cursors) == 1:
            return self._with_backward(request, cursors[0])
        name = self.pipelines[p].name
        if not cursors:
            if optional:
                return None
            raise eval_error(
                "wrong-rank",
                f"rank {self.rank} holds no stage of `{name}`",
                place,
                notes=(f"`{name}` is on {ranks_in_words(sorted(set(self.pipelines[p].ranks)))}",),
            )
        which = " or ".join(f"`{kind} {name}[{t.stage}]`" for t in cursors[:4])
        raise eval_error(
            "ambiguous",
            f"rank {self.rank} holds {len(cursors)} stages of `{name}`: which `{kind}`?",
            place,
            help=f"say {which}",
        )

    def _with_backward(self, request: Request, cursor: Cursor) -> Cursor:
        if request.kind != "F" and cursor.pipeline.forward_only:
            raise eval_error(
                "no-such-operation",
                f"`{cursor.pipeline.name}` is `forward only` and has no `{request.kind}`",
                Label(request.place),
                Label(cursor.pipeline.declaration.stated_at["forward only"], "no backward here"),
            )
        return cursor

    def _no_pipeline(self, request: Request, fit: list[int]) -> Cursor | None:
        """None or several pipelines fit; only the first may be what an optional mention meets."""
        if fit:
            which = " or ".join(f"`{request.kind} {self.pipelines[q].name}`" for q in fit[:4])
            raise eval_error(
                "ambiguous",
                f"rank {self.rank} holds stages of {len(fit)} pipelines: which `{request.kind}`?",
                request.place,
                help=f"say {which}",
            )
        if request.optional and request.stage is None:
            return None
        if self.cursors:
            self._with_backward(request, next(iter(self.cursors.values())))
        raise eval_error("wrong-rank", f"rank {self.rank} holds no stage", request.place)

    def _holds(self, request: Request) -> None:
        """A named stage has to be on this rank."""
        p, s = request.pipeline, request.stage
        if p is not None and s is not None:
            if (p, s) not in self.cursors:
                raise self._elsewhere(request, p, s)
        elif p is not None:
            if p not in self.of and not request.optional:
                raise eval_error(
                    "wrong-rank",
                    f"rank {self.rank} holds no stage of `{self.pipelines[p].name}`",
                    request.place,
                )
        elif s is not None and not any(stage == s for _, stage in self.cursors):
            raise eval_error(
                "wrong-rank", f"rank {self.rank} does not hold a stage {show(s)}", request.place
            )

    # ---- Refusals

    def _elsewhere(self, request: Request, p: int, s: int) -> EvalError:
        pipeline = self.pipelines[p]
        name = f"{request.kind} {pipeline.name}[{show(s)}]"
        if not 0 <= s < len(pipeline.ranks):
            return eval_error(
                "no-such-operation",
                f"there is no `{name}`",
                Label(
                    request.place, f"`{pipeline.name}` has stages 0 to {len(pipeline.ranks) - 1}"
                ),
            )
        fit = self.of.get(p) or [t for (_, stage), t in self.cursors.items() if stage == s]
        here = " and ".join(f"`{request.kind} {t.pipeline.name}[{t.stage}]`" for t in fit[:4])
        help_ = f"rank {self.rank} has {here}" if fit else None
        return eval_error(
            "wrong-rank",
            f"`{name}` is on rank {pipeline.ranks[s]}, not on rank {self.rank}",
            request.place,
            help=help_,
        )

    def _runs_out(self, request: Request, cursor: Cursor) -> EvalError:
        """All micro-batches of the stage are given already."""
        p = cursor.pipeline
        what = "slices" if self.cut else "micro-batches"
        name = f"{request.kind} {p.name}[{cursor.stage}]"
        message = (
            f"rank {self.rank} runs out of {what} for `{name}`: this would be the "
            f"{_ordinal(cursor.total + 1)}, and there are {cursor.total}"
        )
        fewer = "--set" in self.microbatches_at(p.index).text
        help_ = "bound what counts them: `min(microbatches, …)`" if fewer else None
        return eval_error(
            "no-such-operation", message, Label(request.place), self._count(cursor), help=help_
        )

    def _none_waits(self, request: Request) -> EvalError:
        """No weight gradient is left for a `W`: too few `I` stand before it, or a `B` did it."""
        from stretto.compiler.evaluation.orders.counts import by_line, scheduled_at

        cursors = [
            cursor
            for (p, s), cursor in self.cursors.items()
            if request.pipeline in (None, p) and request.stage in (None, s)
        ]
        done = {kind: [at for t in cursors for at in scheduled_at(t, kind)] for kind in "IW"}
        whole = 0 < len(done["I"]) == sum(sum(cursor.full) for cursor in cursors)
        notes = [
            f"on rank {self.rank} `{kind}` ran {by_line(texts, self.span)} before it"
            for kind, texts in done.items()
            if texts and not whole
        ]
        help_ = "a `W` without a micro-batch takes the oldest `I` that has none yet"
        if whole:
            help_ = "`B` does its `W` already: leave the `W` out, or write `I` instead of `B`"
        message = f"on rank {self.rank} no weight gradient{self._whose(request)} is waiting here"
        code = "no-such-operation"
        return SecondaryError(diagnosis(code, message, request.place, notes=notes, help=help_))

    def _no_microbatch(self, request: Request, cursor: Cursor, m: int) -> EvalError:
        name = f"{request.kind} {cursor.pipeline.name}[{cursor.stage}, {show(m)}]"
        message = f"there is no `{name}`"
        return eval_error("no-such-operation", message, Label(request.place), self._count(cursor))

    def _count(self, cursor: Cursor) -> Label:
        """How many micro-batches there are, where that is declared."""
        p = cursor.pipeline
        span, as_set = self.microbatches_at(p.index)
        each = f", of {cursor.slices} slices each" if self.cut else ""
        words = f"`{p.name}` has micro-batches 0 to {cursor.microbatches - 1}{each}{as_set}"
        return Label(span, words)

    def _no_slice(self, request: Request, cursor: Cursor, k: int) -> EvalError:
        if not self.cut:
            return eval_error(
                "no-such-operation",
                "micro-batches are not cut into slices here",
                request.place,
                help="split microbatch into 2 slices",
            )
        return eval_error(
            "no-such-operation",
            f"there is no slice {show(k)}: a micro-batch has slices 0 to {self.slices - 1}",
            request.place,
        )

    def _twice(self, kind: Kind, cursor: Cursor, number: int, first: int, place: Span) -> EvalError:
        microbatch, k = cursor.place(number, kind != "F")
        name = self.words(cursor, (microbatch, k))
        before = kind
        if kind != "F":
            full = cursor.full[number]
            before = (
                "B"
                if full
                else "W"
                if kind == "W" or cursor.backward[number] == UNSCHEDULED
                else "I"
            )
            if kind == "B" and not full and cursor.weight[number] == first:
                before = "W"
        there = self.span(first)
        message = f"`{kind} {name}` runs twice on rank {self.rank}"
        if before != kind:
            message = (
                f"`{kind} {name}` on rank {self.rank} does again what `{before} {name}` has done"
            )
        if there == place:
            return eval_error("runs-twice", message, Label(place, "both times here"))
        return eval_error("runs-twice", message, Label(place), Label(there, "the first time"))

    def _whose(self, request: Request) -> str:
        name = "" if request.pipeline is None else self.pipelines[request.pipeline].name
        stage = "" if request.stage is None else f"[{request.stage}]"
        return f" of `{name}{stage}`" if name or stage else ""

    def words(self, cursor: Cursor, cell: tuple[int, int]) -> str:
        """`main[0, 3]`, with the slice where there are slices."""
        k = f", slice {cell[1]}" if self.cut else ""
        return f"{cursor.pipeline.name}[{cursor.stage}, {cell[0]}{k}]"

    # ---- What was left out

    def left_out(self) -> Iterator[tuple[Kind, Cursor, list[int]]]:
        """Operations that were not given: for each kind and stage their numbers. `B` stands for a
        backward of which nothing was given."""
        for cursor in self.cursors.values():
            for kind, numbers in (
                ("F", [i for i, at in enumerate(cursor.forward) if at == UNSCHEDULED]),
                ("B", [i for i, at in enumerate(cursor.backward)
                       if at == UNSCHEDULED and cursor.weight[i] == UNSCHEDULED]),
                ("I", [i for i, at in enumerate(cursor.backward)
                       if at == UNSCHEDULED and cursor.weight[i] != UNSCHEDULED]),
                ("W", [i for i, at in enumerate(cursor.weight)
                       if at == UNSCHEDULED and cursor.backward[i] != UNSCHEDULED]),
            ):  # fmt: skip
                if numbers:
                    yield kind, cursor, numbers


def _ordinal(n: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st."""
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n:,}{ending}"
