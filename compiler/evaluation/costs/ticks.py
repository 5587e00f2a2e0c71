"""From the file's own units to whole ticks and grains: the last step of `evaluate`, which nothing
after it rounds."""

from collections.abc import Iterable
from math import lcm

from stretto.compiler.evaluation.costs.table import MOST, CostTable, Exact
from stretto.compiler.evaluation.declared import Declarations
from stretto.compiler.evaluation.expressions.ranges import LoopBudget
from stretto.compiler.evaluation.placement import ResolvedPipeline
from stretto.compiler.evaluation.reports import Reports, diagnosis
from stretto.compiler.problem.spec import (
    MAIN_KINDS,
    NONE,
    CostOverride,
    Kind,
    Operation,
    Pair,
    PairCostOverride,
    Stage,
    Unit,
)


class UnitScale:
    """How many whole units there are to one unit of the file."""

    def __init__(self, values: Iterable[Exact]):
        self.unit = 1
        self.largest = 0
        for value in values:
            self.unit = lcm(self.unit, value.denominator)
            self.largest = max(self.largest, abs(value.numerator // value.denominator))
            if self.unit > MOST:
                break

    @property
    def fits(self) -> bool:
        return self.unit <= MOST and self.largest * self.unit <= MOST

    @property
    def trouble(self) -> str:
        """Why it does not fit."""
        if self.unit > MOST:
            return "are fractions whose common denominator is above 2^53"
        return f"lie too far apart: in units of 1/{self.unit}, which they need, one is above 2^53"

    def __call__(self, value: Exact) -> int:
        scaled = value * self.unit
        return scaled if isinstance(scaled, int) else scaled.numerator


class Priced:
    """CostTable in ticks, sizes in grains; computed once the orders are known, since a pair's
    exceptional cost matters only where the pair is run."""

    def __init__(
        self,
        declared: Declarations,
        pipelines: tuple[ResolvedPipeline, ...],
        costs: CostTable,
        written: list[tuple[Unit, ...]],
        budget: LoopBudget,
        reports: Reports,
    ):
        self.declared = declared
        self.pipelines = pipelines
        self.costs = costs
        self.budget = budget
        cells = list(self._exceptions())
        pairs = list(self._pairs()) if costs.pairs else []
        special = list(self._special_pairs(cells, pairs, written)) if costs.pairs else []
        durations = [
            costs.of_stage(k, p.index, i)
            for p in pipelines
            for i in range(len(p.ranks))
            for k in "FBIW"
        ]
        durations += [t for _, t in cells]
        durations += [t for *_, t in pairs]
        durations += [t for *_, t in special]
        durations += list(costs.transfers.values())
        sizes = [
            costs.activation.get((p.index, i), 1) for p in pipelines for i in range(len(p.ranks))
        ]
        sizes += [kept for kept, _ in costs.kept.values()]
        sizes += [most for most, _ in costs.limits.values()]
        self.time, self.size = UnitScale(durations), UnitScale(sizes)
        for scale, what in ((self.time, "times"), (self.size, "sizes")):
            if not scale.fits:
                reports.add_for_values(
                    diagnosis(
                        "too-large",
                        f"the {what} of this file {scale.trouble}",
                        declared.stated_at["schedule"],
                        help=f"round the {what}",
                    )
                )
        self.exceptions = tuple(CostOverride(o, self.time(t)) for o, t in cells)
        self.pairs = tuple(Pair(r, f, k, b, self.time(t)) for r, f, k, b, t in pairs)
        self.exceptional_pairs = tuple(PairCostOverride(f, b, self.time(t)) for f, b, t in special)

    def stage(self, p: ResolvedPipeline, index: int) -> Stage:
        forward, backward, input_gradient, weight_gradient = (
            self.time(self.costs.of_stage(k, p.index, index)) for k in MAIN_KINDS
        )
        activation = self.costs.activation.get((p.index, index), 1)
        kept = self.costs.kept.get((p.index, index))
        return Stage(
            rank=p.ranks[index],
            F=forward,
            B=backward,
            I=input_gradient,
            W=weight_gradient,
            activation=self.size(activation),
            kept=self.size(activation if kept is None else kept[0]),
        )

    # ---- What differs

    def _exceptions(self) -> Iterable[tuple[Operation, Exact]]:
        """Operations whose duration is not their stage's."""
        kinds: tuple[Kind, ...] = ("F", "B", "I", "W") if self.declared.split else ("F", "B")
        for p in self.pipelines:
            for stage in range(len(p.ranks)):
                for kind in kinds[:1] if p.forward_only else kinds:
                    usual = self.costs.of_stage(kind, p.index, stage)
                    for m, k in self.costs.varying_cells(kind, p.index, stage):
                        ticks = self.costs.of_cell(kind, p.index, stage, (m, k))
                        if ticks != usual:
                            yield Operation(kind, p.index, stage, m, k), ticks

    def _pairs(
        self,
    ) -> Iterable[tuple[int, tuple[int, int], Kind, tuple[int, int], Exact]]:
        """Overlapped units that do not take the sum of their halves."""
        held: dict[int, list[tuple[int, int]]] = {}
        for p in self.pipelines:
            for stage, rank in enumerate(p.ranks):
                held.setdefault(rank, []).append((p.index, stage))
        kinds: list[Kind] = [k for k in ("B", "I") if k in self.declared.overlap]
        for rank, stages in sorted(held.items()):
            for forward in stages:
                for kind in kinds:
                    for backward in stages:
                        if self.pipelines[backward[0]].forward_only:
                            continue
                        self.budget.spend(1, self.declared.overlap[kind])
                        f = self.costs.of_stage("F", *forward)
                        b = self.costs.of_stage(kind, *backward)
                        ticks = self.of_pair(forward, kind, backward, f, b)
                        if ticks is not None and ticks != f + b:
                            yield rank, forward, kind, backward, ticks

    def of_pair(
        self, forward: tuple[int, int], kind: Kind, backward: tuple[int, int], f: Exact, b: Exact
    ) -> Exact | None:
        """What the last fitting `cost F | B` says for these costs of the two."""
        forwards = (forward, (forward[0], NONE), (NONE, NONE))
        backwards = (backward, (backward[0], NONE), (NONE, NONE))
        fitting = [self.costs.pairs.get((kind, x, y)) for x in forwards for y in backwards]
        last = max((cost for cost in fitting if cost), key=lambda c: c.turn, default=None)
        return None if last is None else last.ticks(f, b)

    def _special_pairs(
        self,
        cells: list[tuple[Operation, Exact]],
        pairs: list[tuple[int, tuple[int, int], Kind, tuple[int, int], Exact]],
        written: list[tuple[Unit, ...]],
    ) -> Iterable[tuple[Operation, Operation, Exact]]:
        """Units with an exceptional half that would otherwise be given their stages' figure."""
        if not cells:
            return
        usual = {(f, k, b): t for _, f, k, b, t in pairs}
        exceptional = dict(cells)
        for forward, backward in self._couples(exceptional, written):
            f, b = forward[1:3], backward[1:3]
            times = [self._of(o, exceptional) for o in (forward, backward)]
            ticks = self.of_pair(f, backward.kind, b, *times)
            if ticks is None:
                ticks = times[0] + times[1]
            if ticks != usual.get((f, backward.kind, b), times[0] + times[1]):
                yield forward, backward, ticks

    def _of(self, o: Operation, exceptional: dict[Operation, Exact]) -> Exact:
        found = exceptional.get(o)
        return self.costs.of_stage(o.kind, o.pipeline, o.stage) if found is None else found

    def _couples(
        self, exceptional: dict[Operation, Exact], written: list[tuple[Unit, ...]]
    ) -> Iterable[tuple[Operation, Operation]]:
        """Units with an exceptional half: those that were written and, where the compiler may
        still order, all that could be."""
        for units in written:
            for unit in units:
                if len(unit.operations) == 2:
                    forward, backward = unit.operations
                    if forward in exceptional or backward in exceptional:
                        yield forward, backward
        if self.declared.order_auto is not None or self.declared.order is None:
            yield from self._all_couples(exceptional)

    def _all_couples(
        self, exceptional: dict[Operation, Exact]
    ) -> Iterable[tuple[Operation, Operation]]:
        kinds: list[Kind] = [k for k in ("B", "I") if k in self.declared.overlap]
        for o in exceptional:
            if o.kind != "F" and o.kind not in kinds:
                continue
            rank = self.pipelines[o.pipeline].ranks[o.stage]
            for kind in kinds if o.kind == "F" else ["F"]:
                for other in self._on(rank, kind):
                    self.budget.spend(1, next(iter(self.declared.overlap.values())))
                    if (other.pipeline, other.microbatch) == (o.pipeline, o.microbatch):
                        continue
                    if o.kind == "F":
                        yield o, other
                    elif other not in exceptional:
                        yield other, o

    def _on(self, rank: int, kind: Kind) -> Iterable[Operation]:
        """All operations of a kind on a rank."""
        for p in self.pipelines:
            if kind != "F" and p.forward_only:
                continue
            for stage, where in enumerate(p.ranks):
                if where == rank:
                    for m in range(p.microbatches):
                        for k in range(self.declared.slices) if self.declared.slices else (NONE,):
                            yield Operation(kind, p.index, stage, m, k)
