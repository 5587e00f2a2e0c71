"""The critical chain and the causes of idle time, on schedules where both are known by hand, and on
random ones by what must be so."""

import json
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from random import Random

import msgspec
import pytest

from stretto.compiler.analysis.explanation import Explanation, explain
from stretto.compiler.analysis.what_if import what_would_help
from stretto.compiler.cli import main
from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.order.arrange import arrange
from stretto.compiler.order.budget import Budget
from stretto.compiler.order.written import written
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Limit, Operation, Rule, Spec
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicate, forwards
from stretto.compiler.program.program import Program
from stretto.compiler.program.timeline import time
from stretto.compiler.show.explanation import data, text
from tests.support import bound_instances, library, specs


def program(spec: Spec) -> Program:
    return communicate(written(expand(spec)))


def idle(found: Explanation) -> list[tuple[int, ...]]:
    return [tuple(one.values()) for one in found.idle]


def test_one_f_one_b() -> None:
    """Two ranks, two micro-batches, B = 2: rank 1 waits for data, and rank 0 waits for the first
    gradient with a forward at hand that its order has later."""
    found = explain(program(specs.ordered(specs.linear(2, 2), specs.one_f_one_b)))
    assert found.makespan == 9
    assert [link.operation.strip("`") for link in found.chain] == [
        "F main[0, 0]",
        "F main[1, 0]",
        "B main[1, 0]",
        "F main[1, 1]",
        "B main[1, 1]",
        "B main[0, 1]",
    ]
    assert [link.why for link in found.chain[:3]] == [
        "starts the step",
        "needs `F main[0, 0]` from rank 0",
        "needs `F main[1, 0]`",
    ]
    assert found.chain[3].why == "comes after `B main[1, 0]`"
    # data, memory, order, channel, done
    assert idle(found) == [(3, 0, 0, 0, 0), (1, 0, 0, 0, 2)]


def test_memory_and_order_are_told_apart() -> None:
    """One micro-batch at a time on rank 0, by its order: where the limit asks for that, memory is
    the cause, else the order."""
    one_by_one = specs.ordered(specs.linear(2, 3), lambda spec, rank: ["F", "B"] * 3)
    free = explain(program(one_by_one))
    limited = msgspec.structs.replace(one_by_one, limits=(Limit(2, 0), None))
    tight = explain(program(limited))
    assert free.idle[0]["memory"] == 0 and tight.idle[0]["order"] == 0
    assert free.idle[0]["order"] == tight.idle[0]["memory"] == 6
    assert tight.stretches[0].why == (
        "`F main[0, 1]` is ready, but memory is full until `B main[0, 0]`"
    )


def test_an_order_that_memory_forces_is_memory() -> None:
    """Rank 0 could run one more forward of stage 0, and has room for it: but then the forward of
    stage 1 that the order has first would find none, and no backward could ever run."""
    spec = specs.model(2, specs.pipeline("main", [0, 1, 0], 3))
    words = ["F0.0", "F2.0", "B2.0", "B0.0"]
    words += [w.replace(".0", f".{m}") for m in (1, 2) for w in words[:4]]
    order = ["F1.0", "B1.0", "F1.1", "B1.1", "F1.2", "B1.2"]
    one_by_one = specs.ordered(spec, lambda _, rank: order if rank else words)
    limited = msgspec.structs.replace(one_by_one, limits=(Limit(4, 0), None))
    assert explain(program(one_by_one)).idle[0]["memory"] == 0
    found = explain(program(limited), 100)
    first = min((s for s in found.stretches if s.rank == 0), key=lambda s: s.start)
    assert first.cause == "memory" and first.why == (
        "`F main[0, 1]` is ready, but would take memory that `F main[2, 0]` needs first"
    )


def test_a_rule_is_an_order() -> None:
    """A forward that a rule holds back has its data: rank 0 does not wait for a gradient alone."""
    rules = tuple(
        Rule(Operation("F", 0, 0, m), Operation("B", 0, 0, m - 1), 0) for m in range(1, 3)
    )
    spec = specs.ordered(specs.linear(2, 3), lambda spec, rank: ["F", "B"] * 3)
    found = explain(program(msgspec.structs.replace(spec, rules=rules)))
    assert found.idle[0]["order"] == 6
    assert (
        found.stretches[0].why == "`F main[0, 1]` has its data, but a rule has `B main[0, 0]` first"
    )


def test_half_of_a_pair_waits_for_the_order() -> None:
    """A backward that is ready, and the order wants it overlapped with a forward that is not."""
    spec = specs.both_ways(2, 2, pair=3)
    f, b = Operation("F", 0, 0, 0), Operation("B", 0, 0, 0)
    g, c = Operation("F", 1, 1, 0), Operation("B", 1, 1, 0)
    down = [(f,), (g, b), (c,)]
    up = [
        (f._replace(stage=1),),
        (b._replace(stage=1),),
        (g._replace(stage=0),),
        (c._replace(stage=0),),
    ]
    found = explain(program(specs.written(spec, [down, up])), 100)
    mine = [(s.start, s.end, s.cause, s.why) for s in found.stretches if s.rank == 0]
    assert (
        4,
        5,
        "order",
        "`B down[0, 0]` is ready, but the order runs it together with `F up[1, 0]`",
    ) in mine


def test_what_is_on_its_way_waits_for_a_channel() -> None:
    found = explain(program(specs.ordered(specs.linear(2, 1, transfer=3), specs.gpipe)), 100)
    ways = [(s.start, s.end, s.cause) for s in found.stretches if s.rank == 1]
    assert sorted(ways) == [(0, 1, "data"), (1, 4, "channel"), (7, 12, "done")]
    assert "`F main[1, 0]` waits for `F main[0, 0]`, on its way from rank 0" in {
        s.why for s in found.stretches
    }


def samples() -> Iterator[Program]:
    """Random orders, the library, and orders that were found, some with few receive slots."""
    for seed in range(60):
        random = Random(seed)
        spec = specs.random_order(specs.random_model(random), random, pairs=0.4)
        yield program(spec)
        yield communicate(written(expand(spec)), 1)
    for name in library.WHOLE:
        spec = library.spec(name)
        yield program(spec)
        yield program(library.spec(name, "transfer 1/2"))
        yield forwards(written(expand(spec)))
    for shape in ("linear", "unequal", "release", "interleaved", "vee", "both ways", "pairs"):
        random = Random(f"explain {shape}")
        for _ in range(3):
            problem = expand(bound_instances.instance(shape, random, 60))
            with suppress(Rejected):  # without a search some are too tight
                yield communicate(arrange(problem, Budget(effort=0)))


def test_every_idle_tick_has_one_cause() -> None:
    """The causes of a rank's idle time add up to it, and so do the stretches."""
    for made in samples():
        timeline, found = time(made), explain(made, many=10**6)
        for rank in range(made.spec.ranks):
            assert sum(found.idle[rank].values()) == timeline.idle(rank)
            mine = sorted((s.start, s.end) for s in found.stretches if s.rank == rank)
            assert all(a[1] <= b[0] for a, b in pairwise(mine))
            assert sum(end - start for start, end in mine) == timeline.idle(rank)
            busy = [(t.start, t.end) for t in timeline.ranks[rank]]
            assert all(b <= c or d <= a for a, b in mine for c, d in busy if c < d)


def test_the_chain_is_as_long_as_the_makespan() -> None:
    """Its links follow one another in time, from 0 to the makespan, with transfers at most between
    them. Of a span it covers all from the rank's first operation to its last."""
    for made in samples():
        spec = msgspec.structs.replace(made.spec, minimize="makespan")
        found = explain(msgspec.structs.replace(made, spec=spec))
        ways = {0, *(t.ticks for t in spec.transfers)}
        assert found.chain[0].start == 0
        assert all(b.start - a.end in ways for a, b in pairwise(found.chain))
        gaps = sum(b.start - a.end for a, b in pairwise(found.chain))
        assert sum(link.end - link.start for link in found.chain) + gaps == found.makespan
        spec = msgspec.structs.replace(made.spec, minimize="span")
        found = explain(msgspec.structs.replace(made, spec=spec))
        assert found.last - found.first == time(made).span
        assert found.chain[0].start <= found.first and found.chain[-1].end == found.last


def test_memory_is_the_cause_where_nothing_that_is_ready_fits() -> None:
    """Worked out anew, the slow way: whatever is ready while a rank waits for memory breaks the
    limit when it is moved there; while it waits for the order, something does not."""
    seen = {"memory": 0, "order": 0}
    for seed in range(120):
        random = Random(seed)
        spec = specs.random_order(specs.random_model(random), random)
        peaks = claims(program(spec)).activations
        limits = tuple(Limit(peak, 0) for peak in peaks)
        made = program(msgspec.structs.replace(spec, limits=limits))
        timeline = time(made)
        ends = {t.operation: t.end for row in timeline.ranks for t in row}
        cut = {tuple(o[1:5]) for o in ends if o.kind == "I"}
        for one in explain(made, many=10**6).stretches:
            if one.cause not in seen:
                continue
            row = [t.operation for t in timeline.ranks[one.rank]]
            here = next(k for k, t in enumerate(timeline.ranks[one.rank]) if t.start >= one.end)
            fits = []
            for k in range(here + 1, len(row)):
                ready = max(
                    (there(spec, ends, row[k], o) for o in specs.needs(spec, row[k], cut)),
                    default=0,
                )
                if ready <= one.start:
                    moved = [*row[:here], row[k], *row[here:k], *row[k + 1 :]]
                    fits.append(peak(spec, moved) <= limits[one.rank].grains)
            assert fits and any(fits) == (one.cause == "order")
            seen[one.cause] += 1
    assert min(seen.values()) > 30, seen


def there(spec: Spec, ends: dict[Operation, int], later: Operation, earlier: Operation) -> int:
    a, b = (spec.pipelines[o.pipeline].stages[o.stage].rank for o in (earlier, later))
    return ends[earlier] + {(t.source, t.target): t.ticks for t in spec.transfers}.get((a, b), 0)


def peak(spec: Spec, row: list[Operation]) -> int:
    """The most grains that a sequence of operations holds."""
    held = most = 0
    for kind, p, s, *_ in row:
        line = spec.pipelines[p]
        size, kept = line.stages[s].activation, line.stages[s].kept
        held += size if kind == "F" else 0
        most = max(most, held)
        held -= {"F": size if line.forward_only else 0, "B": size, "I": size - kept, "W": kept}[
            kind
        ]
    return most


def test_a_halved_transfer_is_timed_anew() -> None:
    """GPipe on two ranks: one transfer there and one back are on the chain."""
    made = program(specs.ordered(specs.linear(2, 2, transfer=3), specs.gpipe))
    found, _ = what_would_help(made, explain(made), Budget(effort=0))
    now = Fraction(time(made).makespan)
    assert [(one.what, now - one.after) for one in found] == [
        ("all transfers halved", 3),
        ("transfer from 0 to 1 halved", Fraction(3, 2)),
        ("transfer from 1 to 0 halved", Fraction(3, 2)),
    ]


def test_more_memory_is_solved_again() -> None:
    spec = msgspec.structs.replace(
        specs.linear(2, 4, split=True), limits=(Limit(2, 0), Limit(2, 0))
    )
    lists = specs.ordered(spec, lambda spec, rank: ["F", "I", "W"] * 4)
    made = program(lists)
    made = msgspec.structs.replace(
        made, spec=msgspec.structs.replace(made.spec, order=("", ""), written=())
    )
    found, _ = what_would_help(made, explain(made), Budget(effort=0))
    gains = {one.what: one.before - one.after for one in found}
    assert gains["one more activation on every rank"] > 0
    assert found == tuple(sorted(found, key=lambda one: one.after))


PART = """
schedule part
ranks 3
microbatches 4
pipeline main { stages ranks  place s -> s }
split B into I, W
order rank r { repeat microbatches { F; I } }
order auto
"""


def test_what_was_fixed_of_an_order_stays_fixed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One micro-batch at a time, as was written: twice the transfers cannot be overlapped. The
    plan file does not say so, but the text in it does."""
    file, plan = tmp_path / "part.pipe", tmp_path / "part.plan"
    file.write_text(PART + "transfer 2")
    assert main(["compile", str(file), "-o", str(plan), "--effort", "0"]) == 0
    capsys.readouterr()
    assert main(["explain", str(plan), "--json", "--time-limit", "3"]) == 0
    gains = {one["what"]: one for one in json.loads(capsys.readouterr().out)["relaxed"]}
    least = 4 * (3 + 3) + 4 * 4  # F and I on every stage, four transfers each
    assert gains["all transfers halved"]["after"] >= least
    free = gains["the whole order left to the compiler"]
    assert free["after"] < free["before"]


def test_text_and_json_say_the_same() -> None:
    made = program(specs.ordered(specs.linear(4, 30), specs.one_f_one_b))
    found = explain(made)
    shown, told = text(made.spec, found), data(made.spec, found)
    assert json.loads(msgspec.json.encode(told))["makespan"] == found.makespan
    assert shown.startswith(f"makespan {found.makespan}: ")
    assert "more" in shown  # the chain is long
    assert told["idle"][0]["data"] == found.idle[0]["data"]
    assert told["chain"][0]["operation"] == "F main[0, 0]"


def test_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "one_f_one_b", "--set", "ranks=2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["chain"][0]["operation"] == "F main[0, 0]"
    assert main(["explain", "gpipe"]) == 0
    assert "why every rank is idle, and for how long" in capsys.readouterr().out
