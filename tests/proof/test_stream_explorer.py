"""Of Programs with streams the proof's verdict is that of all interleavings, with streams that run
arbitrarily fast or slow.

Small random Programs of both verdicts: laid out at random around a random order, with awaits where
they are needed, or some left out. `stream_explorer` runs every interleaving of each, with every
stream for itself and with one thread per rank, under channels that hold nothing, one message, any
number; and of each rank alone.
"""

from collections import Counter
from collections.abc import Callable
from random import Random

from msgspec.structs import replace

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.program.program import Await, Program
from stretto.compiler.proof.prove import prove
from tests.support.explorer import CAPACITIES, FINISH, LEFT, STUCK, WRONG, TooLarge
from tests.support.mutants import random_mutant
from tests.support.part_programs import emitted, lists_at_random, operations, reissued
from tests.support.part_specs import limited, random_parts, ruled
from tests.support.planned_streams import PlannedStreams
from tests.support.stream_explorer import OVER, explore_rank, explore_streams

RACES = ("unordered-streams", "over-limit")


def verdict(program: Program) -> tuple[str, str]:
    """`proved` or the code of the first finding; and what it says."""
    try:
        prove(program)
    except Rejected as rejected:
        first = rejected.diagnostics[0]
        return first.code, first.message
    return "proved", ""


def outcomes(program: Program, most: int = 20_000) -> list[set[str]]:
    """Of all interleavings, streams by themselves and together, by capacity."""
    return [
        explore_streams(program, capacity, together=together, most=most)
        for together in (False, True)
        for capacity in CAPACITIES
    ]


def alone(program: Program) -> set[str]:
    """Of each rank by itself, all that can be seen there."""
    seen: set[str] = set()
    for rank in range(len(program.ranks)):
        seen |= explore_rank(program, rank, most=20_000)
    return seen


def judged(program: Program, seed: int) -> str:
    """The verdict, once it was compared with the explorer's."""
    code, message = verdict(program)
    try:
        if code == "proved":
            claims = prove(program).claims
            figures = tuple(getattr(claims, key) for key in claims.__struct_fields__)
            assert figures == PlannedStreams(program).figures(), seed
            assert outcomes(program) == [{FINISH}] * 6, seed
            assert alone(program) == {FINISH}, (seed, alone(program))
        elif code in RACES:
            wrong = {WRONG, LEFT} if code == "unordered-streams" else {OVER}
            assert wrong & alone(program), (seed, message, alone(program))
        elif code == "deadlock":
            found = outcomes(program)
            wrong = {STUCK, WRONG} if program.spec.rules else {STUCK}  # a rule may be broken before
            stuck = [bool(wrong & one) and FINISH not in one for one in (found[0], found[3])]
            assert any(stuck), (seed, message, found)
        elif code == "rule-between-ranks":  # where messages are buffered, so that none implies it
            assert WRONG in explore_streams(program, None), (seed, message)
        else:
            assert code in ("wrong-message", "empty-slot", "too-early")
            bad = {WRONG, STUCK, LEFT}
            assert all(found & bad for found in outcomes(program)), (seed, code, message)
    except TooLarge:
        return "too large"
    return code


def without(program: Program, random: Random, share: float) -> Program:
    """The Program with some of its awaits left out."""
    ranks, streams = [], []
    for own, there in zip(program.ranks, program.streams, strict=True):
        kept = [
            (one, stream)
            for one, stream in zip(own, there, strict=True)
            if not isinstance(one, Await) or random.random() >= share
        ]
        ranks.append(tuple(one for one, _ in kept))
        streams.append(tuple(stream for _, stream in kept))
    return replace(program, ranks=tuple(ranks), streams=tuple(streams))


def compare_layout(seed: int) -> str:
    """Lay out the messages of a random order, and compare the proof with the explorer."""
    random = Random(seed)
    spec = random_parts(
        random, microbatches=random.choice([1, 1, 2]), longest=random.choice([2, 3])
    )
    name = "eval" if random.random() < 0.2 else "train"
    if random.random() < 0.4:
        spec = limited(spec, random.randint(1, 4))
    if random.random() < 0.2:
        every = list(operations(spec))
        spec = ruled(spec, *random.sample(every, 2))
    lists = lists_at_random(spec, random, name)  # type: ignore[arg-type]
    if random.random() < 0.4:
        lists = reissued(spec, lists, random)
    program = emitted(
        spec,
        lists,
        name,  # type: ignore[arg-type]
        random=random if random.random() < 0.7 else None,
        limits=random.random() < 0.5,
    )
    if random.random() < 0.4:
        program = without(program, random, random.choice([0.1, 0.3, 1]))
    return judged(program, seed)


# ---------------------------------------------------------------------------- random edits


def compare_edits(seed: int) -> str:
    """Edit a good Program at random, and compare the proof with the explorer."""
    random = Random(seed)
    while True:
        spec = random_parts(random, microbatches=1, longest=random.choice([2, 3]))
        if random.random() < 0.5:
            spec = limited(spec, random.randint(2, 4))
        good = emitted(spec, lists_at_random(spec, random), random=random)
        if verdict(good)[0] == "proved":
            break
    edited = good
    for _ in range(random.choice([1, 1, 2, 3])):
        edited = random_mutant(edited, random).program
    code, _ = verdict(edited)
    if code in ("proved", "deadlock", *RACES):
        return judged(edited, seed)
    return code


def count(compare: Callable[[int], str], seeds: range) -> Counter[str]:
    verdicts = Counter(compare(seed) for seed in seeds)
    print(compare.__name__, dict(verdicts.most_common()))
    return verdicts


def test_random_layouts_are_proved_exactly_if_every_interleaving_finishes() -> None:
    verdicts = count(compare_layout, range(150))
    assert verdicts["proved"] > 40 and verdicts["unordered-streams"] > 20


def test_edited_programs_are_proved_only_if_every_interleaving_does_the_same() -> None:
    verdicts = count(compare_edits, range(200))
    assert verdicts["proved"] > 10 and verdicts.total() - verdicts["proved"] > 100
