"""A rank whose process ends between two steps: the others, which wait for it to begin the next, say
so long before their patience is over; one that is still at its work when others are done says
nothing."""

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from stretto.compiler.plan.plan import Plan
from stretto.runtime import Executor
from stretto.runtime.coordination import departures
from stretto.runtime.coordination.departures import Departures
from stretto.runtime.coordination.peers import Peers
from stretto.runtime.coordination.store import Store
from stretto.runtime.ending import end_with
from tests.support import ranks
from tests.support.training import compiled

pytestmark = pytest.mark.xdist_group("ranks")

PATIENCE = 300.0  # seconds: nobody waits for that long here


def trains(rank: int, plan: Plan, how: str) -> None:
    """Two steps, of which rank 2 takes one."""
    stages = {("main", rank): torch.nn.Linear(4, 4)}
    executor = Executor(plan, stages, lambda y, _: y.sum(), timeout=PATIENCE)
    batch = torch.ones(8, 4)
    executor.step(batch, target=batch)
    if rank == 2 and how == "over":
        end_with(lambda: 0)
    if rank == 2:
        os._exit(0)
    executor.step(batch, target=batch)


@pytest.mark.parametrize(
    ("how", "why"), [("over", "its script was over"), ("killed", "killed, or")]
)
def test_a_rank_that_has_ended_between_steps_is_told(how: str, why: str) -> None:
    plan = compiled("one_f_one_b", ranks=3, microbatches=4)
    outcome = ranks.run(3, trains, plan, how, seconds=60, check=False)
    assert outcome.codes == [1, 1, 0]
    for rank in (0, 1):
        assert "rank 2: its process has ended" in outcome.output[rank]
        assert why in outcome.output[rank]


def store() -> Store:
    return Store(dist.HashStore(), "")  # type: ignore[attr-defined]


def test_what_has_been_sent_may_still_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that has sent its last and ended is not lost to one that goes on with that."""
    gone, own = list[int](), SimpleNamespace(leave=lambda: None)
    near: Any = SimpleNamespace(
        known={1: None, 2: None},
        own=own,
        gone=lambda among: [r for r in among if r in gone],
        obituary=lambda dead: f"ranks {dead} have ended",
    )
    seen = Departures(Peers(0, 3, store(), 60.0, near))
    assert seen.told((1, 2), (1, 1)) == ""
    gone.append(2)
    assert seen.told((1,), (1, 1)) == seen.told((2,), (1, 1)) == seen.told((2,), (1, 1)) == ""
    monkeypatch.setattr(departures, "CERTAIN", 0.0)
    assert seen.told((2,), (1, 2)) == ""  # it has moved on meanwhile
    assert seen.told((2,), (1, 2)) == "ranks [2] have ended"


def test_a_rank_of_another_machine_leaves_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(departures, "CERTAIN", 0.0)
    shared = store()
    seen = Departures(Peers(0, 2, shared, 60.0))
    assert [seen.told((1,), (1, 1)) for _ in range(2)] == ["", ""]
    Departures(Peers(1, 2, shared, 60.0)).leave()
    told = [seen.told((1,), (1, 1)) for _ in range(2)]
    assert told[0] == "" and told[1].startswith("rank 1: ended though others wait for it")
