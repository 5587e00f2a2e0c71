"""The proof's verdict is that of all interleavings.

Two kinds of small random Programs, both with both verdicts: lists whose messages were laid out at
random around an order of computation that may or may not be able to finish, and good Programs with
a few random edits. `explorer` runs every interleaving of each, under channels that hold nothing,
one message, any number.
"""

from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
from msgspec.structs import replace

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.order.arrange import arrange
from stretto.compiler.order.budget import Budget
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import NONE, Feed, Operation, Spec
from stretto.compiler.program.communicate import communicate, forwards
from stretto.compiler.program.program import (
    Channel,
    Compute,
    Copy,
    Free,
    Instruction,
    Program,
    Receive,
    Reduce,
    Reduction,
    Send,
    Wait,
)
from stretto.compiler.proof.prove import prove
from tests.support import specs
from tests.support.explorer import CAPACITIES, FINISH, LEFT, STUCK, WRONG, TooLarge, alone, explore
from tests.support.mutants import harmless, random_mutant


def small(random: Random) -> Spec:
    """A model whose interleavings can be counted, with a random order that can finish."""
    microbatches = random.randint(1, 2)
    spec = random.choice(
        [
            lambda: specs.linear(2, microbatches + 1),
            lambda: specs.linear(3, microbatches),
            lambda: specs.interleaved(2, 2, microbatches),
            lambda: specs.vee(2, microbatches),
            lambda: specs.both_ways(2, 2),
            lambda: specs.both_ways(3, 2),
            lambda: specs.linear(2, 1, slices=2),
            lambda: fed(microbatches),
        ]
    )()
    return specs.random_order(replace(spec, overlap=("B", "I")), random, pairs=0.3)


def fed(microbatches: int) -> Spec:
    """Two pipelines whose ends are inputs of a third's last stage."""
    feeds = (Feed(0, 1),)
    return specs.model(
        2,
        specs.pipeline("text", (0, 1), microbatches),
        specs.pipeline("image", (0,), microbatches, feeds=feeds),
        specs.pipeline("sound", (1, 0), microbatches, feeds=feeds, forward_only=True),
    )


# ---------------------------------------------------------------------------- the explorer itself

FIRST, LAST = Operation("F", 0, 0, 0), Operation("F", 0, 1, 0)
MAKE = (Compute(FIRST, (), 0), Send(0, 0), Wait(0), Free(0))
USE = (Receive(0, 0, FIRST), Wait(0), Compute(LAST, (0,)), Free(0))


@pytest.mark.parametrize(
    ("first", "second", "outcomes"),
    [
        (MAKE, USE, [{FINISH}, {FINISH}, {FINISH}]),
        # freed while it leaves: the message may be taken too late
        ((*MAKE[:2], MAKE[3], MAKE[2]), USE, [{FINISH, WRONG}] * 3),
        # read before the wait for it: it may not be there yet
        (MAKE, (USE[0], USE[2], USE[1], USE[3]), [{FINISH, WRONG}] * 3),
        # never received
        (MAKE, (), [{STUCK}, {LEFT}, {LEFT}]),
        ((*MAKE[:2], MAKE[3]), (), [{LEFT}] * 3),
        # never sent; not freed; another result than the receive names
        (MAKE[:1], USE, [{STUCK}] * 3),
        (MAKE, USE[:3], [{LEFT}] * 3),
        (MAKE, (Receive(0, 0, LAST), *USE[1:]), [{WRONG}] * 3),
        # written while it leaves
        ((*MAKE[:2], Compute(LAST._replace(stage=0, microbatch=1), (), 0), *MAKE[2:]), USE, None),
    ],
)
def test_the_explorer_sees_what_goes_wrong(
    first: tuple[Instruction, ...],
    second: tuple[Instruction, ...],
    outcomes: list[set[str]] | None,
) -> None:
    program = Program(
        specs.linear(2, 2), "eval", (Channel(0, 1, "activation"),), (), (first, second)
    )
    found = [explore(program, capacity) for capacity in CAPACITIES]
    assert found == (outcomes or [{FINISH, WRONG}] * 3)


# ---------------------------------------------------------------------------- random layouts


def laid_out(spec: Spec, random: Random) -> Program:
    """The written orders with messages laid out at random: every result has a slot of its own; a
    receive is posted anywhere before it is needed, in the order of its channel (most often); a
    send is begun, and waited for, anywhere after."""
    units = [[unit.operations for unit in own] for own in spec.written]
    place = {
        operation: (rank, k)
        for rank, own in enumerate(units)
        for k, operations in enumerate(own)
        for operation in operations
    }
    cut = {o[1:5] for o in place if o.kind == "I"}
    users: dict[Operation, list[Operation]] = {}
    reads: dict[Operation, list[Operation]] = {}
    for operation in place:
        for need in specs.needs(spec, operation, cut):
            if (need.pipeline, need.stage) != (operation.pipeline, operation.stage):
                users.setdefault(need, []).append(operation)
                reads.setdefault(operation, []).append(need)
    channels: list[Channel] = []
    slots: list[dict[Operation, int]] = [{} for _ in units]
    items: list[list[tuple[float, Instruction]]] = [[] for _ in units]
    messages: dict[int, list[tuple[float, float, Operation]]] = {}  # sent, needed, by channel

    patient = random.choice([0.1, 0.3, 1, 4])  # posts come early, waits late; or the other way

    def later(start: float, rank: int, power: float = 4) -> float:
        """A moment after `start`; soon, if `power` is great."""
        return start + (len(units[rank]) + 0.5 - start) * random.random() ** power

    for result, them in users.items():
        rank, made = place[result]
        slot = slots[rank].setdefault(result, len(slots[rank]))
        last = max([made + 0.4, *(place[u][1] + 0.4 for u in them if place[u][0] == rank)])
        for other in {place[user][0] for user in them} - {rank}:
            channel = Channel(rank, other, "activation" if result.kind == "F" else "gradient")
            if channel not in channels:
                channels.append(channel)
            c = channels.index(channel)
            sent = later(made + 0.1, rank)
            waited = later(sent, rank, patient)
            items[rank] += [(sent, Send(slot, c)), (waited, Wait(slot))]
            last = max(last, waited)
            needed = min(place[user][1] for user in them if place[user][0] == other)
            messages.setdefault(c, []).append((sent, needed, result))
        items[rank].append((last + 1e-9, Free(slot)))
    for c, queue in messages.items():
        queue.sort(key=lambda message: message[0])
        if random.random() < 0.05:
            random.shuffle(queue)
        other = channels[c].target
        posts, limit = [], 1e9
        for _, by, _ in reversed(queue):
            limit = min(limit, by)
            posts.append(limit - (limit + 0.9) * random.random() ** patient)
        for post, (_, by, result) in zip(sorted(posts), queue, strict=True):
            slot = slots[other].setdefault(result, len(slots[other]))
            waited = by - (by - post) * random.random() ** 6 / 2
            last = max(place[u][1] for u in users[result] if place[u][0] == other)
            items[other] += [
                (post, Receive(slot, c, result)),
                (waited, Wait(slot)),
                (last + 0.4, Free(slot)),
            ]
    for rank, own in enumerate(units):
        for k, operations in enumerate(own):
            for half, operation in enumerate(operations):
                compute = Compute(
                    operation,
                    tuple(slots[rank][need] for need in reads.get(operation, ())),
                    slots[rank][operation] if operation in users else NONE,
                    k if len(operations) > 1 else NONE,
                )
                items[rank].append((k + half * 1e-12, compute))
    sums = tuple(
        Reduction(tuple(sorted(copies, key=lambda copy: (copy.rank, copy.pipeline))))
        for copies in _copies(spec)
    )
    for number, reduction in enumerate(sums):
        for rank in {copy.rank for copy in reduction.copies}:
            items[rank].append((len(units[rank]) + 0.6 + random.random(), Reduce(number)))
    lists = [[one for _, one in sorted(own, key=lambda item: item[0])] for own in items]
    return Program(spec, "train", tuple(channels), sums, tuple(tuple(own) for own in lists))


def _copies(spec: Spec) -> list[list[Copy]]:
    if not any(line.replicates == 0 for line in spec.pipelines):
        return []
    return [
        [Copy(p, s, line.stages[s].rank) for p, line in enumerate(spec.pipelines)]
        for s in range(len(spec.pipelines[0].stages))
    ]


def verdict(program: Program) -> str:
    """`proved`, or the code of the first finding."""
    try:
        prove(program)
    except Rejected as rejected:
        return rejected.diagnostics[0].code
    return "proved"


def compare_layout(seed: int) -> str:
    """Lay out the messages of a random order, and compare the proof with the explorer."""
    random = Random(seed)
    spec = small(random)
    if random.random() < 0.4:
        spec = specs.shuffled(spec, random, random.randint(1, 2))
    program = laid_out(spec, random)
    found = verdict(program)
    try:
        outcomes = [explore(program, capacity) for capacity in CAPACITIES]
    except TooLarge:
        return "too large"
    if found == "proved":
        assert outcomes == [{FINISH}] * 3, (seed, outcomes)
        assert not alone(program).wrong, seed
    elif found == "deadlock":
        assert outcomes[0] == {STUCK}, (seed, outcomes)
    elif found == "too-early":
        assert alone(program).wrong, seed
    else:
        assert found in ("wrong-message", "empty-slot"), (seed, found)
        assert not any(FINISH in outcome for outcome in outcomes), (seed, found, outcomes)
    return found


# ---------------------------------------------------------------------------- random edits


def compare_edits(seed: int) -> str:
    """Edit a good Program at random, and compare the proof with the explorer."""
    random = Random(seed)
    make = random.choice([communicate, communicate, forwards])
    good = make(arrange(expand(small(random)), Budget()))
    if random.random() < 0.5:  # as if the compiler had found the order: then it may be another
        good = replace(good, spec=replace(good.spec, order=("",) * good.spec.ranks, written=()))
    edited = good
    for _ in range(random.choice([1, 1, 2, 3])):
        edited = random_mutant(edited, random).program
    found = verdict(edited)
    if found == "proved":
        assert harmless(good, edited) == "", (seed, harmless(good, edited))
        return found
    if found == "deadlock":
        assert explore(edited, 0) == {STUCK}, seed
    elif found in ("wrong-message", "unmatched-message", "slot-left"):
        outcomes = [explore(edited, capacity) for capacity in CAPACITIES]
        assert {FINISH} not in outcomes, (seed, found, outcomes)
    return found


def count(compare: Callable[[int], str], seeds: range) -> Counter[str]:
    verdicts = Counter(compare(seed) for seed in seeds)
    print(compare.__name__, dict(verdicts.most_common()))
    return verdicts


def test_random_layouts_are_proved_exactly_if_every_interleaving_finishes() -> None:
    verdicts = count(compare_layout, range(1200))
    assert verdicts["proved"] > 150 and verdicts["deadlock"] > 150


def test_edited_programs_are_proved_only_if_every_interleaving_does_the_same() -> None:
    verdicts = count(compare_edits, range(1200))
    assert verdicts["proved"] > 100 and verdicts.total() - verdicts["proved"] > 600


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("compare", [compare_layout, compare_edits])
def test_thousands_more(compare: Callable[[int], str]) -> None:
    count(compare, range(1000, 7000))
