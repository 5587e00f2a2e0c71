"""The critical chain and the causes of idle time, on schedules where both are known by hand, and on
random ones by what must be so."""

import json
from fractions import Fraction
from itertools import pairwise
from random import Random

import msgspec
import pytest
import specs

from stretto.compiler.cli import main
from stretto.compiler.communicate import communicate
from stretto.compiler.expand import expand
from stretto.compiler.explain import Explanation, explain
from stretto.compiler.order.budget import Budget
from stretto.compiler.order.written import written
from stretto.compiler.program import Program
from stretto.compiler.relaxations import relaxed
from stretto.compiler.show.explanation import data, text
from stretto.compiler.spec import Limit, Spec
from stretto.compiler.timeline import time


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
    assert tight.stretches[0].why.endswith("is ready, but memory is full until `B main[0, 0]`"), (
        tight.stretches[0]
    )


def test_every_idle_tick_has_one_cause() -> None:
    for seed in range(60):
        random = Random(seed)
        spec = specs.random_order(specs.random_model(random), random, pairs=0.4)
        made = program(spec)
        timeline, found = time(made), explain(made, longest=10**6)
        for rank in range(spec.ranks):
            assert sum(found.idle[rank].values()) == timeline.idle(rank)
            mine = sorted((s.start, s.end) for s in found.stretches if s.rank == rank)
            assert all(a[1] <= b[0] for a, b in pairwise(mine))


def test_the_chain_has_no_slack() -> None:
    """Its links follow one another in time, from 0 to the makespan, with transfers at most
    between them."""
    for seed in range(60):
        random = Random(seed)
        spec = specs.random_order(specs.random_model(random), random, pairs=0.4)
        found = explain(program(spec))
        ways = {0, *(t.ticks for t in spec.transfers)}
        if any("channel" in link.why for link in found.chain):
            continue
        assert found.chain[-1].end == found.makespan
        assert found.chain[0].start == 0
        assert all(b.start - a.end in ways for a, b in pairwise(found.chain))


def test_a_halved_transfer_is_timed_anew() -> None:
    """GPipe on two ranks: one transfer there and one back are on the chain."""
    made = program(specs.ordered(specs.linear(2, 2, transfer=3), specs.gpipe))
    found = relaxed(made, explain(made), Budget(effort=0))
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
    found = relaxed(made, explain(made), Budget(effort=0))
    assert found[0].what == "one more activation on every rank"
    assert found[0].after < found[0].before


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
    assert "what every rank waits for while it is idle" in capsys.readouterr().out
