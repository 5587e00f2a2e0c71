"""How operations take their places in the order of one rank: what a mention leaves out is filled in
here, and every operation is given once."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from stretto.compiler.diagnostics.diagnostic import Label
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.expressions.values import show
from stretto.compiler.evaluation.orders.cursor import FREE, Track
from stretto.compiler.evaluation.placement import Placed
from stretto.compiler.evaluation.reports import Consequence, Stop, diagnosis, ranks_in_words, stop
from stretto.compiler.problem.spec import NONE, Kind, Operation, Unit


class Asked(NamedTuple):
    """A mention with its expressions computed; None is to be filled in."""

    kind: Kind
    pipeline: int | None
    stage: int | None
    microbatch: int | None
    slice: int | None
    optional: bool
    place: Span


class Taker:
    """The order of one rank while it is made."""

    def __init__(
        self,
        rank: int,
        pipelines: tuple[Placed, ...],
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
        self.tracks = {(p, s): Track(pipelines[p], s, slices) for p, s in held}
        self.of: dict[int, list[Track]] = {}
        for (p, _), track in self.tracks.items():
            self.of.setdefault(p, []).append(track)
        self.single = {p: tracks[0] for p, tracks in self.of.items() if len(tracks) == 1}
        self.units: list[Unit] = []
        self.turn = 0  # how many I's have taken their places
        self.failures = 0

    # ---- Taking

    def take(self, asked: Asked, at: int) -> Operation | None:
        """The operation that is asked for, which is now given to the text `at`; None if it is
        optional and none is left. Raises `Stop`."""
        kind, p, s, m, k, optional, place = asked
        if kind == "W" and m is None:
            return self._oldest(asked, at)
        track = self.single.get(p) if s is None and p is not None else None
        if track is None:
            track = self._track(asked)
            if track is None:
                return None
        if kind == "F":
            number = track.next_forward
            given = track.forward
        else:
            number = track.next_backward
            given = track.backward
            if not given:
                self._with_backward(asked, track)
        if m is None and k is None:
            total = len(given)
            while number < total and given[number] != FREE:
                number += 1
            if kind == "F":
                track.next_forward = number
            else:
                track.next_backward = number
            if number == total:
                if optional:
                    return None
                raise self._runs_out(asked, track)
        else:
            found = self._numbered(asked, track)
            if found is None:
                return None
            number = found
        return self._give(kind, track, number, at, place)

    def _give(self, kind: Kind, track: Track, number: int, at: int, place: Span) -> Operation:
        if kind == "F":
            track.forward[number] = at
            microbatch, k = (number, 0) if track.slices == 1 else track.place(number, False)
        else:
            if kind != "I":
                if track.weight[number] != FREE:
                    raise self._twice(kind, track, number, track.weight[number], place)
                track.weight[number] = at
            if kind != "W":
                track.backward[number] = at
                if kind == "B":
                    track.full[number] = 1
                else:
                    self.turn += 1
                    track.waiting.append((self.turn, number))
            microbatch, k = (number, 0) if track.slices == 1 else track.place(number, True)
        return Operation(
            kind, track.pipeline.index, track.stage, microbatch, k if self.cut else NONE, NONE
        )

    def _numbered(self, asked: Asked, track: Track) -> int | None:
        """The number of an operation whose micro-batch, slice or both are named."""
        kind, _, _, m, k, optional, place = asked
        backward = kind != "F"
        given = track.forward if kind == "F" else track.weight if kind == "W" else track.backward
        if m is not None and not 0 <= m < track.microbatches:
            raise self._no_microbatch(asked, track, m)
        if k is not None and not 0 <= k < self.slices:
            raise self._no_slice(asked, track, k)
        if m is not None and k is not None:
            numbers = iter([track.number(m, k, backward)])
        elif m is not None:
            numbers = iter(range(m * track.slices, (m + 1) * track.slices))
        else:
            assert k is not None
            numbers = iter(track.number(x, k, backward) for x in range(track.microbatches))
        number = last = None
        for number in numbers:
            if given[number] == FREE:
                return number
            last = number
        if optional:
            return None
        if m is None or last is None:
            raise self._runs_out(asked, track)
        raise self._twice(kind, track, last, given[last], place)

    def _oldest(self, asked: Asked, at: int) -> Operation | None:
        """The weight gradient that waits longest among those that were asked for."""
        kind, p, s, _, k, optional, place = asked
        if p is not None or s is not None:
            self._holds(asked)
        best: tuple[int, int] | None = None
        owner: Track | None = None
        for (q, stage), track in self.tracks.items():
            if (p is None or p == q) and (s is None or s == stage):
                waits = track.oldest() if k is None else self._oldest_slice(asked, track, k)
                if waits is not None and (best is None or waits < best):
                    best, owner = waits, track
        if best is None or owner is None:
            if optional:
                return None
            raise self._none_waits(asked)
        return self._give(kind, owner, best[1], at, place)

    def _oldest_slice(self, asked: Asked, track: Track, k: int) -> tuple[int, int] | None:
        if not 0 <= k < self.slices:
            raise self._no_slice(asked, track, k)
        for turn, number in track.waiting:
            if track.weight[number] == FREE and track.place(number, True)[1] == k:
                return turn, number
        return None

    # ---- Finding the stage

    def _track(self, asked: Asked) -> Track | None:
        """The stage that is meant; None if it is optional and there is none here."""
        kind, p, s, _, _, optional, place = asked
        if p is not None and s is not None:
            track = self.tracks.get((p, s))
            if track is None:
                raise self._elsewhere(asked, p, s)
            return self._with_backward(asked, track)
        if p is None:
            fit = [q for q in self.of if kind == "F" or not self.pipelines[q].forward_only]
            if len(fit) != 1:
                return self._no_pipeline(asked, fit)
            p = fit[0]
            if s is not None:
                track = self.tracks.get((p, s))
                if track is None:
                    raise self._elsewhere(asked, p, s)
                return track
        tracks = self.of.get(p, [])
        if len(tracks) == 1:
            return self._with_backward(asked, tracks[0])
        name = self.pipelines[p].name
        if not tracks:
            if optional:
                return None
            raise stop(
                "wrong-rank",
                f"rank {self.rank} holds no stage of `{name}`",
                place,
                notes=(f"`{name}` is on {ranks_in_words(sorted(set(self.pipelines[p].ranks)))}",),
            )
        which = " or ".join(f"`{kind} {name}[{t.stage}]`" for t in tracks[:4])
        raise stop(
            "ambiguous",
            f"rank {self.rank} holds {len(tracks)} stages of `{name}`: which `{kind}`?",
            place,
            help=f"say {which}",
        )

    def _with_backward(self, asked: Asked, track: Track) -> Track:
        if asked.kind != "F" and track.pipeline.forward_only:
            raise stop(
                "no-such-operation",
                f"`{track.pipeline.name}` is `forward only` and has no `{asked.kind}`",
                Label(asked.place),
                Label(track.pipeline.draft.said["forward only"], "no backward here"),
            )
        return track

    def _no_pipeline(self, asked: Asked, fit: list[int]) -> Track | None:
        """None or several pipelines fit; only the first may be what an optional mention meets."""
        if fit:
            which = " or ".join(f"`{asked.kind} {self.pipelines[q].name}`" for q in fit[:4])
            raise stop(
                "ambiguous",
                f"rank {self.rank} holds stages of {len(fit)} pipelines: which `{asked.kind}`?",
                asked.place,
                help=f"say {which}",
            )
        if asked.optional and asked.stage is None:
            return None
        if self.tracks:
            self._with_backward(asked, next(iter(self.tracks.values())))
        raise stop("wrong-rank", f"rank {self.rank} holds no stage", asked.place)

    def _holds(self, asked: Asked) -> None:
        """A named stage has to be on this rank."""
        p, s = asked.pipeline, asked.stage
        if p is not None and s is not None:
            if (p, s) not in self.tracks:
                raise self._elsewhere(asked, p, s)
        elif p is not None:
            if p not in self.of and not asked.optional:
                raise stop(
                    "wrong-rank",
                    f"rank {self.rank} holds no stage of `{self.pipelines[p].name}`",
                    asked.place,
                )
        elif s is not None and not any(stage == s for _, stage in self.tracks):
            raise stop(
                "wrong-rank", f"rank {self.rank} does not hold a stage {show(s)}", asked.place
            )

    # ---- Refusals

    def _elsewhere(self, asked: Asked, p: int, s: int) -> Stop:
        pipeline = self.pipelines[p]
        name = f"{asked.kind} {pipeline.name}[{show(s)}]"
        if not 0 <= s < len(pipeline.ranks):
            return stop(
                "no-such-operation",
                f"there is no `{name}`",
                Label(asked.place, f"`{pipeline.name}` has stages 0 to {len(pipeline.ranks) - 1}"),
            )
        fit = self.of.get(p) or [t for (_, stage), t in self.tracks.items() if stage == s]
        here = " and ".join(f"`{asked.kind} {t.pipeline.name}[{t.stage}]`" for t in fit[:4])
        help_ = f"rank {self.rank} has {here}" if fit else None
        return stop(
            "wrong-rank",
            f"`{name}` is on rank {pipeline.ranks[s]}, not on rank {self.rank}",
            asked.place,
            help=help_,
        )

    def _runs_out(self, asked: Asked, track: Track) -> Stop:
        """All micro-batches of the stage are given already."""
        p = track.pipeline
        what = "slices" if self.cut else "micro-batches"
        name = f"{asked.kind} {p.name}[{track.stage}]"
        message = (
            f"rank {self.rank} runs out of {what} for `{name}`: this would be the "
            f"{_ordinal(track.total + 1)}, and there are {track.total}"
        )
        fewer = "--set" in self.microbatches_at(p.index).text
        help_ = "bound what counts them: `min(microbatches, …)`" if fewer else None
        return stop(
            "no-such-operation", message, Label(asked.place), self._count(track), help=help_
        )

    def _none_waits(self, asked: Asked) -> Stop:
        """No weight gradient is left for a `W`: too few `I` stand before it, or a `B` did it."""
        from stretto.compiler.evaluation.orders.counts import by_line, given

        tracks = [
            track
            for (p, s), track in self.tracks.items()
            if asked.pipeline in (None, p) and asked.stage in (None, s)
        ]
        done = {kind: [at for t in tracks for at in given(t, kind)] for kind in "IW"}
        whole = 0 < len(done["I"]) == sum(sum(track.full) for track in tracks)
        notes = [
            f"on rank {self.rank} `{kind}` ran {by_line(texts, self.span)} before it"
            for kind, texts in done.items()
            if texts and not whole
        ]
        help_ = "a `W` without a micro-batch takes the oldest `I` that has none yet"
        if whole:
            help_ = "`B` does its `W` already: leave the `W` out, or write `I` instead of `B`"
        message = f"on rank {self.rank} no weight gradient{self._whose(asked)} is waiting here"
        code = "no-such-operation"
        return Consequence(diagnosis(code, message, asked.place, notes=notes, help=help_))

    def _no_microbatch(self, asked: Asked, track: Track, m: int) -> Stop:
        name = f"{asked.kind} {track.pipeline.name}[{track.stage}, {show(m)}]"
        message = f"there is no `{name}`"
        return stop("no-such-operation", message, Label(asked.place), self._count(track))

    def _count(self, track: Track) -> Label:
        """How many micro-batches there are, where that is said."""
        p = track.pipeline
        span, as_set = self.microbatches_at(p.index)
        each = f", of {track.slices} slices each" if self.cut else ""
        words = f"`{p.name}` has micro-batches 0 to {track.microbatches - 1}{each}{as_set}"
        return Label(span, words)

    def _no_slice(self, asked: Asked, track: Track, k: int) -> Stop:
        if not self.cut:
            return stop(
                "no-such-operation",
                "micro-batches are not cut into slices here",
                asked.place,
                help="split microbatch into 2 slices",
            )
        return stop(
            "no-such-operation",
            f"there is no slice {show(k)}: a micro-batch has slices 0 to {self.slices - 1}",
            asked.place,
        )

    def _twice(self, kind: Kind, track: Track, number: int, first: int, place: Span) -> Stop:
        microbatch, k = track.place(number, kind != "F")
        name = self.words(track, (microbatch, k))
        before = kind
        if kind != "F":
            full = track.full[number]
            before = "B" if full else "W" if kind == "W" or track.backward[number] == FREE else "I"
            if kind == "B" and not full and track.weight[number] == first:
                before = "W"
        there = self.span(first)
        message = f"`{kind} {name}` runs twice on rank {self.rank}"
        if before != kind:
            message = (
                f"`{kind} {name}` on rank {self.rank} does again what `{before} {name}` has done"
            )
        if there == place:
            return stop("runs-twice", message, Label(place, "both times here"))
        return stop("runs-twice", message, Label(place), Label(there, "the first time"))

    def _whose(self, asked: Asked) -> str:
        name = "" if asked.pipeline is None else self.pipelines[asked.pipeline].name
        stage = "" if asked.stage is None else f"[{asked.stage}]"
        return f" of `{name}{stage}`" if name or stage else ""

    def words(self, track: Track, cell: tuple[int, int]) -> str:
        """`main[0, 3]`, with the slice where there are slices."""
        k = f", slice {cell[1]}" if self.cut else ""
        return f"{track.pipeline.name}[{track.stage}, {cell[0]}{k}]"

    # ---- What was left out

    def left_out(self) -> Iterator[tuple[Kind, Track, list[int]]]:
        """Operations that were not given: for each kind and stage their numbers. `B` stands for a
        backward of which nothing was given."""
        for track in self.tracks.values():
            for kind, numbers in (
                ("F", [i for i, at in enumerate(track.forward) if at == FREE]),
                ("B", [i for i, at in enumerate(track.backward)
                       if at == FREE and track.weight[i] == FREE]),
                ("I", [i for i, at in enumerate(track.backward)
                       if at == FREE and track.weight[i] != FREE]),
                ("W", [i for i, at in enumerate(track.weight)
                       if at == FREE and track.backward[i] != FREE]),
            ):  # fmt: skip
                if numbers:
                    yield kind, track, numbers  # type: ignore[misc]


def _ordinal(n: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st."""
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n:,}{ending}"
