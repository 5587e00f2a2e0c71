"""Advice on receive slots: no more of them than advised, or than the order needs. What it needs is
found here by going through every way of posting, which knows nothing of the latest moment."""

import re
from collections import Counter
from math import prod
from random import Random

import pytest

from stretto.compiler import cli
from stretto.compiler.order.written import written
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import NONE, Feed, Operation, Spec
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicate, forwards
from stretto.compiler.program.program import Compute, Free, Instruction, Program, Receive
from stretto.compiler.program.slot_advice import raised
from stretto.compiler.proof.prove import prove
from tests.support import specs
from tests.support.explorer import FINISH, follow

Uses = dict[int, list[list[int]]]  # by channel, in order: the units that use each message
FEW = 3000  # ways to have posted some of each channel's messages


def random_spec(seed: int) -> Spec:
    random = Random(seed)
    return specs.random_order(specs.random_model(random), random, pairs=random.choice([0, 0.5]))


def uses(row: tuple[Instruction, ...]) -> tuple[Uses, int]:
    """Who uses what a rank receives, and how many units it has."""
    found: Uses = {}
    held: dict[int, list[int]] = {}
    unit, units = NONE, 0
    for one in row:
        if isinstance(one, Receive):
            held[one.slot] = []
            found.setdefault(one.channel, []).append(held[one.slot])
        elif isinstance(one, Free):
            held.pop(one.slot, None)
        elif isinstance(one, Compute):
            units += not (one.unit != NONE and one.unit == unit)
            unit = one.unit
            for slot in set(one.reads) & set(held):
                held[slot].append(units - 1)
    return found, units


def fewest(row: tuple[Instruction, ...]) -> int | None:
    """The fewest receive slots with which any way of posting does; None where there are too many
    ways. Before each unit any number of each channel's messages may be posted, in order."""
    by_channel, units = uses(row)
    queues = list(by_channel.values())
    if prod(len(queue) + 1 for queue in queues) > FEW:
        return None
    best = {(0,) * len(queues): 0}  # how many of each were posted: the most live so far
    for k in range(units):
        reached = dict(best)
        layer = sorted(reached)
        for posted in layer:  # grows while it is read, by one post at a time
            for c, queue in enumerate(queues):
                if posted[c] < len(queue):
                    more = (*posted[:c], posted[c] + 1, *posted[c + 1 :])
                    if reached[posted] < reached.get(more, FEW):
                        reached[more] = reached[posted]
                        layer.append(more)
        best = {}
        for posted, most in reached.items():
            if all(k not in use for q, n in zip(queues, posted, strict=True) for use in q[n:]):
                live = sum(
                    use[-1] >= k for q, n in zip(queues, posted, strict=True) for use in q[:n]
                )
                best[posted] = max(most, live)
    return min(best.values(), default=0)


def test_no_more_slots_than_advised_or_than_the_order_needs() -> None:
    seen: Counter[str] = Counter()
    for seed in range(300):
        order = written(expand(random_spec(seed)))
        for make in (communicate, forwards):
            free = make(order)
            assert make(order, 10**6) == free
            today = claims(free).receives
            assert make(order, max(*today, 1)) == free
            needs = [fewest(row) for row in free.ranks]
            for slots in (1, 2, 3):
                program = make(order, slots)
                claimed = claims(program)
                assert prove(program, claimed)
                assert program.channels == free.channels
                for rank, (need, has) in enumerate(zip(needs, claimed.receives, strict=True)):
                    if need is None:
                        seen["too many ways"] += 1
                        continue
                    assert need <= has <= max(slots, need), (seed, rank, slots)
                    seen["advice raised"] += has > slots
                    seen["held back"] += has < today[rank]
                word = raised(program, slots)
                assert (word is None) == (max(claimed.receives) <= slots)
                seen["slower"] += claimed.makespan > claims(free).makespan
    assert min(seen["advice raised"], seen["held back"], seen["slower"]) > 100, seen
    assert seen["too many ways"] < 100, seen


def test_it_finishes_under_any_interleaving_with_sends_that_wait() -> None:
    for seed in range(200):
        random = Random(seed)
        order = written(expand(random_spec(seed)))
        for make in (communicate, forwards):
            program = make(order, random.choice([1, 1, 2]))
            for _ in range(2):
                assert follow(program, 0, random.choice) == FINISH


def test_a_receive_that_is_held_back_is_timed_as_late() -> None:
    """A rank with one slot frees it before it posts the next receive: the message then travels
    while nothing runs."""
    order = written(expand(specs.ordered(specs.linear(2, 4, transfer=1), specs.gpipe)))
    found = [claims(communicate(order, slots)) for slots in (None, 2, 1)]
    assert [claimed.receives[1] for claimed in found] == [3, 2, 1]
    # rank 0: F 1; rank 1: 1 on the way, F 4, B 8; rank 0: 1 on the way, the last B 2. With a slot
    # for one, each F but the first waits 1 on rank 1, and each B but the first 1 on rank 0.
    assert [claimed.makespan for claimed in found] == [17, 17, 23]


# ---------------------------------------------------------------------------- the word on it


def word(spec: Spec, slots: int) -> str | None:
    program: Program = communicate(written(expand(spec)), slots)
    return raised(program, slots)


def test_it_is_said_which_rank_needs_more_and_why() -> None:
    def f(s: int, m: int) -> Operation:
        return Operation("F", 0, s, m)

    line = specs.model(2, specs.pipeline("main", [0, 1], 5, forward_only=True))
    turned = specs.written(
        line, [[(f(0, m),) for m in range(5)], [(f(1, m),) for m in (4, 3, 2, 1, 0)]]
    )
    assert word(turned, 4) == (
        "rank 1 needs 5 receive slots: it uses messages in another order than they are sent"
    )
    assert word(turned, 5) is None
    pairs = specs.written(
        specs.linear(3, 2, split=False),
        [
            [(f(0, 0),), (f(0, 1),), *[(Operation("B", 0, 0, m),) for m in (0, 1)]],
            [
                (f(1, 0),),
                (f(1, 1), Operation("B", 0, 1, 0)),
                (Operation("B", 0, 1, 1),),
            ],
            [(f(2, 0),), (Operation("B", 0, 2, 0),), (f(2, 1),), (Operation("B", 0, 2, 1),)],
        ],
    )
    assert word(pairs, 1) == "rank 1 needs 2 receive slots: 2 results are needed by one unit"
    side = specs.pipeline("side", [1], 2, feeds=(Feed(0, 0), Feed(0, 1)), forward_only=True)
    fed = specs.model(2, specs.pipeline("main", [0, 0], 2, forward_only=True), side)
    order = [
        [(f(0, 0),), (f(0, 1),), (f(1, 0),), (f(1, 1),)],
        [(Operation("F", 1, 0, 0),), (Operation("F", 1, 0, 1),)],
    ]
    assert word(specs.written(fed, order), 1) == (
        "rank 0 needs 2 receive slots: messages wait there for a second unit that uses them"
    )


def test_others_that_need_more_are_counted() -> None:
    spec = specs.random_order(specs.interleaved(4, 3, 8), Random(3))
    told = word(spec, 1)
    assert told is not None
    assert re.match(r"rank \d needs \d+ receive slots \(and 3 more ranks above 1\): ", told)


def test_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compile", "dualpipe", "--set", "ranks=4", "--set", "microbatches=8", "--json"]
    told = []
    for more in ([], ["--receive-slots", "2"], ["--receive-slots", "1"]):
        assert cli.main([*words, *more]) == 0
        told.append(capsys.readouterr())
    assert [one.err for one in told] == [
        "",
        "",
        "dualpipe.pipe: rank 0 needs 2 receive slots (and 3 more ranks above 1): 2 results are "
        "needed by one unit\n",
    ]
    hashes = {re.sub('.*"hash":"', "", one.out) for one in told}
    assert len(hashes) == 3
    assert len({one.out.split('"hash"')[0] for one in told}) == 1  # no transfer, no time lost
    for wrong in ("0", "-1", "many"):
        with pytest.raises(SystemExit) as caught:
            cli.main([*words, "--receive-slots", wrong])
        assert caught.value.code == 2
        assert "--receive-slots" in capsys.readouterr().err


def test_a_plan_has_its_slots(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    path = f"{tmp_path}/a.plan"
    assert cli.main(["compile", "gpipe", "-o", path]) == 0
    capsys.readouterr()
    assert cli.main(["check", path, "--receive-slots", "2"]) == 2
    assert "--receive-slots changes nothing" in capsys.readouterr().err
