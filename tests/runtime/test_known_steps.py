"""Steps that are like one before: the ranks begin them without the store, and notice all the same
where one of them differs."""

import threading
from random import Random
from typing import Any

import pytest
import torch

from stretto.compiler.plan.plan import Plan
from stretto.runtime import Executor, StepRefused
from stretto.runtime.coordination.board import Board, board_of
from stretto.runtime.known_steps import KnownSteps
from stretto.runtime.signatures import StepCard, faulty_card
from tests.support.ranks import run
from tests.support.training import batch, built, compiled, loss, spec_of

ranks = pytest.mark.xdist_group("ranks")
WORLD = 3


def card(number: int) -> StepCard:
    return (
        faulty_card("train", "it fails")
        if number < 0
        else StepCard("train", "", {"0 x": [[f"({number},)", 4]]}, {}, 0, {}, [], {})
    )


@pytest.mark.parametrize("seed", range(4))
def test_what_is_known_is_what_the_same_cards_gave(seed: int) -> None:
    """Beside a table of all cards that came together in steps that were taken; one in three is
    refused, and some ranks fail."""
    draw = Random(seed)
    steps = [[draw.randrange(-1, 3) for _ in range(WORLD)] for _ in range(200)]
    refused = [min(cards) < 0 or draw.random() < 0.3 for cards in steps]
    board = Board()

    def rank(own: int, told: list[str]) -> None:
        known = KnownSteps(board, own, WORLD, lambda lacking: None)
        for number, cards in enumerate(steps, 1):
            found = known.ask(number, card(cards[own]))
            told.append(found)
            met.wait(20)
            if not found and not refused[number - 1]:
                known.learn(card(cards[own]), f"of {cards}")

    met = threading.Barrier(WORLD)
    told: list[list[str]] = [[] for _ in range(WORLD)]
    threads = [threading.Thread(target=rank, args=(r, told[r]), daemon=True) for r in range(WORLD)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    taken: set[tuple[int, ...]] = set()
    for cards, no, *found in zip(steps, refused, *told, strict=True):
        assert found == [f"of {cards}" if tuple(cards) in taken else ""] * WORLD
        if not no:
            taken.add(tuple(cards))
    assert any(told[0])


def test_a_board_that_cannot_be_had_is_none() -> None:
    assert board_of(2**22 + 1, 3) is None
    assert board_of(1, -1) is None


def several(rank: int, plan: Plan) -> Any:
    """Steps alike and unlike: what each gave, and how often the rank posted something in it."""
    spec = spec_of(plan)
    modules = built(spec, rank)
    executor = Executor(plan, modules, loss, timeout=30)
    x, target = batch(spec)
    longer = torch.cat([x, x]), torch.cat([target, target])
    posted, here = 0, threading.current_thread()
    post = executor.peers.store.post

    def counted(key: str, value: Any) -> None:
        nonlocal posted
        posted += threading.current_thread() is here
        post(key, value)

    executor.peers.store.post = counted  # type: ignore[method-assign]
    told: list[Any] = []

    def step(x: torch.Tensor, target: torch.Tensor, how: Any = executor.step) -> None:
        nonlocal posted
        posted = 0
        try:
            how(x, target=target)
            told.append((True, posted))
        except StepRefused as refused:
            told.append((str(refused), posted))

    for _ in range(4):
        step(x, target)
    step(*(longer if rank == 1 else (x, target)))  # one rank alone
    step(x, target)
    step(*longer)
    step(*longer)
    step(x, target)
    step(x, target, executor.eval if rank == 0 else executor.step)
    step(x, target)
    frozen = next(next(iter(modules.values())).parameters())
    frozen.requires_grad_(rank != 0)
    step(x, target)
    step(x, target)
    step(x[:1], target) if rank == 0 else step(x, target)
    step(x, target)
    executor.close()
    return told


@ranks
def test_a_step_like_one_before_is_begun_without_the_store() -> None:
    plan = compiled("one_f_one_b", ranks=2, microbatches=4)
    results = run(2, several, plan).results
    for told in results:
        what, posts = zip(*told, strict=True)
        assert [one is True for one in what] == [
            *[True] * 4, False, *[True] * 4, False, *[True] * 3, False, True
        ]  # fmt: skip
        assert all(posts[at] for at in (0, 1, 4, 6, 9, 11, 13)), posts
        assert not any(posts[at] for at in (2, 3, 5, 7, 8, 10, 12, 14)), posts
    first, second = results
    assert "micro-batches of (4, " in first[4][0] and "on rank 1" in first[4][0]
    assert "rank 1 trains while rank 0 evaluates" in second[9][0]
    assert "rank 0 cannot begin the step" in second[13][0]
    assert first[4][0] == second[4][0]
