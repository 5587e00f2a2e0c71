"""The schedules that people have published, as words for any Model whose placement they fit, so
that no order found is ever worse than the best of them. The library's files say the same in the
language, with their sources; here they have to be made in an instant for a thousand ranks.

Each generator writes one rank's word as letters, pairs as two. It may write too much: what goes
beyond the micro-batches is cut off. Whether a word keeps to the memory limit is not decided here.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from stretto.compiler.order.kernels.instance import BACK, NO_LIMIT, F, Model, W

Letters = tuple[int, ...]  # one letter, or a forward and the backward that it overlaps
Words = list[list[Letters]]


def known(model: Model) -> Iterator[tuple[str, Words]]:
    """Name and words of every schedule that fits the placement."""
    shapes = _shapes(model)
    if shapes is None:
        return
    kind, lines = shapes
    makers = {"chain": _chains, "loop": _loops, "vee": _vees, "both": _both}
    for name, write in makers[kind](model, lines):
        words: Words = [[] for _ in range(model.ranks)]
        for place, rank in enumerate(_ranks(model, lines[0])):
            pen = _Pen(model)
            write(place, pen)
            words[rank] = _cut(model, pen.word)
        yield name, words


class _Pen:
    """Writes one rank's word."""

    def __init__(self, model: Model):
        self.model = model
        self.word: list[Letters] = []
        self.waiting: deque[int] = deque()  # stages whose weight gradients wait, oldest first

    def f(self, stage: int) -> None:
        self.word.append((3 * stage + F,))

    def i(self, stage: int) -> None:
        self.word.append((3 * stage + BACK,))
        if self.model.count[3 * stage + W]:
            self.waiting.append(stage)

    def b(self, stage: int) -> None:
        self.word.append((3 * stage + BACK,))
        if self.model.count[3 * stage + W]:
            self.word.append((3 * stage + W,))

    def w(self) -> None:
        """The oldest weight gradient that waits; nothing where none does."""
        if self.waiting:
            self.word.append((3 * self.waiting.popleft() + W,))

    def fb(self, forward: int, backward: int) -> None:
        """The two overlapped, or one after the other where that is not to be had or no gain."""
        f, b = 3 * forward + F, 3 * backward + BACK
        ticks = self.model.pairs.get((f, b))
        alone = self._ticks(f) + self._ticks(b) + self._ticks(b + 1)
        if ticks is not None and ticks <= alone:
            self.word.append((f, b))
        else:
            self.f(forward)
            self.b(backward)

    def _ticks(self, x: int) -> int:
        return self.model.duration[self.model.base[x]] if self.model.count[x] else 0


Writer = Callable[[int, _Pen], None]


def _cut(model: Model, word: Sequence[Letters]) -> list[Letters]:
    """The word without what goes beyond the operations that there are. A pair that has lost one
    of its two is the other alone."""
    seen: dict[int, int] = {}
    kept = []
    for unit in word:
        fits = []
        for x in unit:
            seen[x] = seen.get(x, 0) + 1
            if seen[x] <= model.count[x]:
                fits.append(x)
        if fits:
            kept.append(tuple(fits))
    return kept


# ---------------------------------------------------------------------------- shapes


def _shapes(model: Model) -> tuple[str, list[list[int]]] | None:
    """Which family of placements this is, and the stages of each pipeline: a `chain` has one
    stage on each rank, a `loop` goes round several times, a `vee` down and back up, `both` are
    two chains in opposite directions."""
    lines: list[list[int]] = [[] for _ in model.problem.spec.pipelines]
    for g, (p, _) in enumerate(model.stages):
        lines[p].append(g)
    if any(line.feeds for line in model.problem.spec.pipelines) or len(lines) > 2:
        return None
    ranks = [[model.rank[3 * g] for g in line] for line in lines]
    once = ranks[0][: model.ranks]
    if sorted(once) != list(range(model.ranks)):
        return None
    if len(lines) == 2:
        return ("both", lines) if ranks[0] == once and ranks[1] == once[::-1] else None
    if ranks[0] == once:
        return "chain", lines
    if ranks[0] == once + once[::-1]:
        return "vee", lines
    rounds = len(ranks[0]) // model.ranks
    return ("loop", lines) if ranks[0] == once * rounds else None


def _ranks(model: Model, line: Sequence[int]) -> list[int]:
    """The rank at each place of the chain."""
    return [model.rank[3 * g] for g in line[: model.ranks]]


def _room(model: Model, stage: int) -> int:
    """How many activations of this stage its rank can hold."""
    x = 3 * stage
    limit, size = model.limit[model.rank[x]], model.take[model.base[x]]
    return model.count[x] if limit >= NO_LIMIT or not size else limit // size


# ---------------------------------------------------------------------------- one stage per rank


def _chains(model: Model, lines: list[list[int]]) -> Iterator[tuple[str, Writer]]:
    line = lines[0]
    ranks, many = len(line), model.count[3 * line[0]]
    forward_only = not model.count[3 * line[0] + BACK]

    def write(warmup: Callable[[int], int], held: Callable[[int], int]) -> Writer:
        def writer(r: int, pen: _Pen) -> None:
            visits = [line[r]] * many
            _alternate(pen, visits, visits, warmup(r), held(r))

        return writer

    if forward_only:
        yield "inference", write(lambda r: many, lambda r: 0)
        return
    more = model.slices - 1
    yield "gpipe", write(lambda r: many, lambda r: 0)
    yield "one_f_one_b", write(lambda r: ranks - 1 - r + more, lambda r: 0)
    yield "eager_1f1b", write(lambda r: 2 * (ranks - 1 - r) + more, lambda r: 0)
    yield "zb_h1", write(lambda r: ranks - 1 - r + more, lambda r: r)
    yield "zb_h2", write(lambda r: 2 * (ranks - 1 - r) + more, lambda r: 2 * r)

    def tight(r: int) -> int:
        return min(2 * (ranks - 1 - r), _room(model, line[r]) - 1)

    yield "eager_1f1b", write(tight, lambda r: 0)
    yield "zb_h2", write(tight, lambda r: min(2 * r, _room(model, line[r]) - 1 - tight(r)))
    yield "one_f_one_b", write(lambda r: min(ranks - 1 - r, _room(model, line[r]) - 1), lambda r: 0)


def _alternate(pen: _Pen, forward: list[int], backward: list[int], warmup: int, held: int) -> None:
    """Write forwards for the warm-up, then forward and backward in turn, to the end of both; the
    first `held` weight gradients stay for the end."""
    first = max(0, min(len(forward), warmup))
    for stage in forward[:first]:
        pen.f(stage)
    for k, stage in enumerate(backward):
        if first + k < len(forward):
            pen.f(forward[first + k])
        pen.i(stage)
        if k >= held:
            pen.w()
    while pen.waiting:
        pen.w()


# ---------------------------------------------------------------------------- round and round


def _loops(model: Model, lines: list[list[int]]) -> Iterator[tuple[str, Writer]]:
    line, ranks = lines[0], model.ranks
    chunks, many = len(line) // ranks, model.count[3 * line[0]]

    def visits(r: int, group: int, back: bool) -> list[int]:
        """The stages of place r in the order that groups of micro-batches visit them."""
        order = range(chunks - 1, -1, -1) if back else range(chunks)
        return [
            line[c * ranks + r]
            for g in range(-(-many // group))
            for c in order
            for _ in range(min(group, many - g * group))
        ]

    def write(group: int, warmup: Callable[[int], int], held: Callable[[int], int]) -> Writer:
        def writer(r: int, pen: _Pen) -> None:
            forward, backward = visits(r, group, False), visits(r, group, True)
            _alternate(pen, forward, backward, warmup(r), held(r))

        return writer

    if not model.count[3 * line[0] + BACK]:
        for group in sorted({ranks, many, max(1, many // 2)}):
            yield "inference", write(group, lambda r: chunks * many, lambda r: 0)
        return
    groups = {ranks, many // max(1, many // ranks), ranks - 1, ranks - ranks // 4, ranks + 1}
    for group in sorted(g for g in groups if 0 < g <= many):
        ahead = (chunks - 1) * group
        far = lambda r, ahead=ahead: 2 * (ranks - 1 - r) + ahead  # noqa: E731
        near = lambda r, ahead=ahead: ranks - 1 - r + ahead  # noqa: E731
        yield "interleaved_1f1b", write(group, far, lambda r: 0)
        yield "interleaved_zero_bubble", write(group, near, lambda r: r)
        yield "interleaved_zero_bubble", write(group, far, lambda r: 2 * r)
        yield "interleaved_1f1b", write(group, near, lambda r: 0)
    yield "looped_bfs", write(many, lambda r: chunks * many, lambda r: 0)


# ---------------------------------------------------------------------------- down and back up


def _vees(model: Model, lines: list[list[int]]) -> Iterator[tuple[str, Writer]]:
    line, ranks = lines[0], model.ranks
    many = model.count[3 * line[0]]

    def zb_v(r: int, pen: _Pen) -> None:
        """Qi et al., "Zero Bubble Pipeline Parallelism", section 6; F, I, W alternate."""
        down, up = line[r], line[2 * ranks - 1 - r]
        most = max(2 * ranks - 1, many)
        f_down, f_up = 2 * (ranks - r) - 1 + r, r + ranks - r
        pen_down: deque[int] = deque()
        for _ in range(2 * (ranks - r) - 1):
            pen.f(down)
        for _ in range(r):
            pen.f(up)
            pen.f(down)
        for _ in range(ranks - r):
            pen.f(up)
            pen.b(up)
        while f_up < f_down or f_down < most:
            if f_down < most:
                pen.f(down)
                f_down += 1
            pen.b(down)
            pen.f(up)
            f_up += 1
            pen.b(up)
        for _ in range(r):
            pen.i(down)
            pen.i(up)
        pen_down.extend(pen.waiting)
        pen.waiting.clear()
        later = [stage for stage in pen_down if stage == up]
        early = [stage for stage in pen_down if stage == down]
        for _ in range(ranks - r):
            pen.i(down)
            early.append(pen.waiting.pop() if pen.waiting else down)
            if model.count[3 * down + W]:
                pen.word.append((3 * early.pop(0) + W,))
        if model.count[3 * down + W]:
            pen.word.extend((3 * stage + W,) for stage in later + early)

    def straight(r: int, pen: _Pen) -> None:
        """All forwards, then all backwards, stage by stage."""
        for stage in (line[r], line[2 * ranks - 1 - r]):
            for _ in range(many):
                pen.f(stage)
        if model.count[3 * line[0] + BACK]:
            for stage in (line[2 * ranks - 1 - r], line[r]):
                for _ in range(many):
                    pen.b(stage)

    yield "gpipe", straight
    if model.count[3 * line[0] + BACK]:
        yield "zb_v", zb_v
        if many >= 2 * ranks:
            size = 2 * ranks

            def dualpipe_v(r: int, pen: _Pen) -> None:
                _dualpipe(pen, r, size, many, line[r], line[2 * ranks - 1 - r], True)

            yield "dualpipe_v", dualpipe_v


# ---------------------------------------------------------------------------- both directions


def _both(model: Model, lines: list[list[int]]) -> Iterator[tuple[str, Writer]]:
    down, up = lines
    ranks = len(down)
    each = [model.count[3 * line[0]] for line in lines]
    if not all(model.count[3 * line[0] + BACK] for line in lines):
        return

    def ends(r: int) -> tuple[int, int, int]:
        """The distance to the nearer end, the stage of the pipeline that enters there, and the
        other's."""
        mirrored = ranks - 1 - r
        d = min(r, mirrored)
        near, far = (down[r], up[mirrored]) if r < ranks / 2 else (up[mirrored], down[r])
        return d, near, far

    def gems(r: int, pen: _Pen) -> None:
        for _ in range(max(each)):
            for stage in (down[r], up[ranks - 1 - r]):
                pen.f(stage)
                pen.b(stage)

    def chimera(r: int, pen: _Pen) -> None:
        d, near, far = ends(r)
        half = ranks // 2
        for _ in range(half - d):
            pen.f(near)
        for _ in range(-(-2 * max(each) // ranks)):
            for _ in range(d):
                pen.f(far)
                pen.f(near)
            for _ in range(half - d):
                pen.f(far)
                pen.b(far)
            for _ in range(d):
                pen.b(near)
                pen.b(far)
            for _ in range(half - d):
                pen.b(near)
                pen.f(near)

    yield "gems", gems
    if ranks % 2:
        return
    yield "chimera", chimera
    if each[0] == each[1] and each[0] >= ranks:
        for overlap in (True, False) if model.pairs else (False,):

            def dualpipe(r: int, pen: _Pen, overlap: bool = overlap) -> None:
                d, near, far = ends(r)
                _dualpipe(pen, d, ranks, each[0], near, far, overlap)

            yield "dualpipe", dualpipe


def _dualpipe(pen: _Pen, d: int, ranks: int, many: int, near: int, far: int, overlap: bool) -> None:
    """The eight steps of DeepSeek's `DualPipe.step` at distance d from the nearer end; the same
    on a V of half the ranks (`DualPipeV`)."""
    half = ranks // 2

    def fb(forward: int, backward: int) -> None:
        if overlap:
            pen.fb(forward, backward)
        else:
            pen.f(forward)
            pen.b(backward)

    for _ in range(2 * (half - 1 - d)):
        pen.f(near)
    for _ in range(d + 1):
        pen.f(near)
        pen.f(far)
    for _ in range(half - 1 - d):
        pen.i(far)
        pen.w()
        pen.f(far)
    for k in range(many - ranks + d + 1):
        if k == 0 and d == half - 1:
            pen.f(near)
            pen.b(far)
        else:
            fb(near, far)
        fb(far, near)
    for _ in range(half - 1 - d):
        pen.b(far)
        fb(far, near)
    for k in range(d + 1):
        (pen.i if 2 * k > d else pen.b)(far)
        (pen.i if 2 * k >= d else pen.b)(near)
    for _ in range(half - 1 - d):
        pen.w()
        pen.i(near)
    while pen.waiting:
        pen.w()
