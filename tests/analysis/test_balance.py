"""What moving work between stages gains, against brute force over all shares with longest paths of
our own: by the rules of the language and the lists alone."""

import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from random import Random

import msgspec
import pytest

from stretto.compiler.analysis.balance import TOO_LARGE, moved_spec, moving_work
from stretto.compiler.analysis.gains import WorkMove
from stretto.compiler.cli import main
from stretto.compiler.order.written import order_like, written
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import NONE, Costs, Operation, Spec
from stretto.compiler.program.communicate import communicate
from stretto.compiler.program.program import Program
from stretto.compiler.program.timeline import time
from tests.support import specs

Unit = tuple[Operation, ...]
Ticks = Callable[[Unit], Fraction]
EXACT = 100 * 27720  # a percent of a tick, over the cost of any two operations


class Lists:
    """The lists of a Program, whose makespan or span is the longest of all paths: looked for over
    and over until nothing changes."""

    def __init__(self, program: Program):
        self.spec = spec = program.spec
        self.rows = [[unit.operations for unit in units] for units in spec.written]
        cut = {tuple(o[1:5]) for row in self.rows for unit in row for o in unit if o.kind == "I"}
        place = {o: rank for rank, row in enumerate(self.rows) for unit in row for o in unit}
        lags = {(t.source, t.target): t.ticks * EXACT for t in spec.transfers}
        unit_of = {o: unit for row in self.rows for unit in row for o in unit}
        self.needed = {
            unit: [
                (unit_of[other], lags.get((place[other], rank), 0))
                for one in unit
                for other in specs.needs(spec, one, cut)
            ]
            for rank, row in enumerate(self.rows)
            for unit in row
        }

    def value(self, ticks: Ticks) -> Fraction:
        """Makespan or span where units take so long."""
        length = {unit: int(ticks(unit) * EXACT) for unit in self.needed}
        start, end = dict.fromkeys(length, 0), dict.fromkeys(length, 0)
        changed = True
        while changed:
            changed = False
            for row in self.rows:
                free = 0
                for unit in row:
                    at = max([free, *[end[other] + lag for other, lag in self.needed[unit]]])
                    free = at + length[unit]
                    if (at, free) != (start[unit], end[unit]):
                        changed, start[unit], end[unit] = True, at, free
        if self.spec.minimize == "span":
            return Fraction(max(end[r[-1]] - start[r[0]] for r in self.rows if r), EXACT)
        return Fraction(max(end.values()), EXACT)


def shared(spec: Spec, p: int, source: int, target: int, share: Fraction) -> Ticks:
    """What units take once this share of a stage's work, copies too, is its neighbour's."""
    costs = Costs(spec)

    def alone(o: Operation) -> Fraction:
        own = Fraction(costs.of(o))
        if p in (o.pipeline, spec.pipelines[o.pipeline].replicates):
            if o.stage == source:
                return own * (1 - share)
            if o.stage == target:
                return own + share * costs.of(o._replace(stage=source))
        return own

    def ticks(unit: tuple[Operation, ...]) -> Fraction:
        before, after = sum(map(costs.of, unit)), sum(map(alone, unit), Fraction(0))
        return after * costs.unit(unit) / before if before else after + costs.unit(unit)

    return ticks


def best(program: Program) -> Iterator[tuple[str, int, int, int, Fraction]]:
    """Of all neighbours the least share that gains most, if any does."""
    spec, lists = program.spec, Lists(program)
    now = lists.value(shared(spec, NONE - 1, 0, 0, Fraction(0)))
    for p, line in enumerate(spec.pipelines):
        work = {s.F + s.B * (not line.forward_only) for s in line.stages}
        if line.replicates != NONE or len(work) == 1:
            continue
        for source in range(len(line.stages)):
            for target in (source - 1, source + 1):
                if 0 <= target < len(line.stages):
                    after, share = min(
                        (lists.value(shared(spec, p, source, target, Fraction(k, 100))), k)
                        for k in range(1, 100)
                    )
                    if after < now:
                        yield line.name, source, target, share, after


def sample(seed: int) -> Program:
    """A small program with an order of any kind, pairs among it that take less than their two."""
    random = Random(f"balance {seed}")
    while True:
        spec = specs.random_model(random)
        if sum(len(p.stages) * p.microbatches for p in spec.pipelines) <= 12:
            break
    spec = msgspec.structs.replace(spec, minimize=random.choice(("makespan", "span")), rules=())
    spec = specs.random_order(spec, random, pairs=0.3)
    spec = msgspec.structs.replace(spec, split_backward=True)
    return communicate(written(expand(spec)))


def test_moves_are_the_best_of_all_shares() -> None:
    seen = 0
    for seed in range(9):
        program = sample(seed)
        moves = moving_work(program).moves
        unit = program.spec.time_unit
        found = [(m.pipeline, m.source, m.target, m.percent, m.after * unit) for m in moves]
        known = sorted(best(program), key=lambda row: (row[4], row[3]))
        assert [row[4] for row in found] == [row[4] for row in known[: len(found)]], seed
        assert set(found) <= set(known), seed
        assert len(found) == min(3, len(known)), seed
        seen += len(found)
    assert seen > 10, seen


def uneven(minimize: str = "makespan", transfer: int = 1) -> Program:
    each = (4, 5, 9)
    spec = specs.linear(3, 6, lambda s: (each[s], each[s], each[s]), transfer=transfer)
    spec = msgspec.structs.replace(spec, minimize=minimize)
    return communicate(written(expand(specs.ordered(spec, specs.one_f_one_b))))


def test_even_stages() -> None:
    """As 1F1B of equal stages: (micro-batches + ranks - 1) × a stage's work."""
    (gain,) = moving_work(uneven(transfer=0)).even
    assert gain.after == (6 + 2) * 18


def test_the_spec_after_a_move_is_timed_alike() -> None:
    """What is searched anew has the move's costs: the same order takes as long."""
    made = uneven()
    move = moving_work(made).moves[0]
    eased = moved_spec(made.spec, move)
    assert eased is not None
    units = [[unit.operations for unit in units] for units in made.spec.written]
    again = communicate(order_like(expand(eased), units, "again"))
    assert Fraction(time(again).makespan, again.spec.time_unit) == move.after < move.before


def test_costs_of_many_figures_move_too(
    capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    """Costs as a profiler prints them leave no room for hundredths; what is searched anew is the
    same order of nearly the same costs."""
    random = Random("figures")
    costs = f"{tmp_path}/c.pipe"
    with open(costs, "w") as file:
        for stage in range(8):
            file.writelines(f"cost {k}[{stage}] = {1 + random.random()!r}\n" for k in "FBW")
    sizes = ["--set=ranks=4", "--set=microbatches=8", f"--costs={costs}"]
    assert main(["explain", "v_half", "--effort", "1", "--json", *sizes]) == 0
    found = json.loads(capsys.readouterr().out)
    whats = {gain["what"]: gain for gain in found["relaxed"]}
    whats |= {what: {} for note in found["notes"] for what in note.split(": ")[-1].split("; ")}
    (best, *_) = found["moves"]
    words = f"moving {best['percent']} % of the work of stage {best['source']} to stage "
    assert f"{words}{best['target']}, ordered anew" in whats
    assert "the work of main spread evenly over its stages, in this order" in whats


def test_a_spec_too_fine_for_hundredths_is_rounded() -> None:
    made = uneven()
    fine = 1 << 40
    stages = tuple(
        msgspec.structs.replace(s, F=s.F * fine + 1, B=s.B * fine, I=0, W=0)
        for s in made.spec.pipelines[0].stages
    )
    lines = (msgspec.structs.replace(made.spec.pipelines[0], stages=stages),)
    spec = msgspec.structs.replace(made.spec, pipelines=lines, time_unit=fine)
    eased = moved_spec(spec, WorkMove("main", 2, 1, 37, Fraction(0), Fraction(0)))
    assert eased is not None and eased.time_unit == fine
    for stage, whole in ((0, 4), (1, 5 + 9 * 0.37), (2, 9 * 0.63)):
        assert eased.pipelines[0].stages[stage].F / fine == pytest.approx(whole, rel=1e-9)


def test_costs_of_single_microbatches_move_too() -> None:
    """A micro-batch that is dear on stage 2 is as dear, by its share, where its work goes."""
    made = uneven()
    dear = [Operation(kind, 0, 2, 3) for kind in "FBIW"]
    spec = msgspec.structs.replace(made.spec, exceptions=tuple((o, 40) for o in dear))
    spec = msgspec.convert(msgspec.to_builtins(spec), Spec)
    eased = moved_spec(spec, WorkMove("main", 2, 1, 25, Fraction(0), Fraction(0)))
    assert eased is not None and eased.time_unit == 4
    costs = Costs(eased)
    assert costs.of(dear[0]) == 40 * 3 and costs.of(dear[0]._replace(stage=1)) == 5 * 4 + 40
    assert costs.of(dear[0]._replace(stage=1, microbatch=2)) == 5 * 4 + 9


def test_nothing_is_said_of_equal_stages_nor_at_a_size_too_large() -> None:
    equal = communicate(written(expand(specs.ordered(specs.linear(3, 4), specs.one_f_one_b))))
    assert moving_work(equal) == ((), (), ())
    assert moving_work(uneven(), work=100) == ((), (), (TOO_LARGE,))
    few = moving_work(uneven("span"), work=4_000)
    assert "left out" in few.notes[-1]


def test_from_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    costs = ["--costs", f"{tmp_path}/c.pipe"]
    with open(costs[1], "w") as file:
        file.write("cost F[3] = 2")
    asked = ["explain", "one_f_one_b", "--effort", "0", "--set", "ranks=4", *costs]
    assert main([*asked, "--json"]) == 0
    (move, *_) = json.loads(capsys.readouterr().out)["moves"]
    assert (move["source"], move["target"]) == (3, 2)
    assert main(asked) == 0
    words = f"moving {move['percent']} % of the work of stage 3 to stage 2: "
    assert words in capsys.readouterr().out
