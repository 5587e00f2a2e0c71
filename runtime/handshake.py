"""How the ranks make sure, before the first step, that they mean the same: all there, one plan,
one version, and that plan proved. Rank 0 judges for all, the others wait for its verdict."""

import platform
from collections.abc import Sequence
from typing import Any

import torch

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.plan.plan import Plan
from stretto.compiler.proof.prove import prove_all
from stretto.runtime.errors import Stopped
from stretto.runtime.rank_program import ranks
from stretto.runtime.store import Board, Missing

JUDGING = 1800.0  # seconds that rank 0 may take to prove a plan


def meet(
    board: Board, rank: int, world: int, digest: str, whole: Plan | None, seconds: float
) -> None:
    """Returns when all ranks are there with the same plan. Rank 0 is given the `whole` of it to
    prove, or None to trust it. Raises `Stopped`, on all ranks that are there."""
    board.post(f"here/{rank}", _card(digest, world))
    if rank == 0:
        fault = _judge(board, world, whole, seconds)
        board.post("verdict", fault)
    else:
        _await(board, ["here/0"], seconds)
        fault = _await(board, ["verdict"], JUDGING)[0]
    if fault:
        raise Stopped(fault)


def roll_call(board: Board, rank: int, world: int, seconds: float) -> None:
    """Returns when all ranks are there. Raises `Stopped` with those that are not."""
    board.post(f"roll/{rank}", True)
    _await(board, [f"roll/{other}" for other in range(world)], seconds)


def _card(digest: str, world: int) -> dict[str, Any]:
    return {
        "plan": digest,
        "ranks": world,
        "torch": torch.__version__,
        "host": platform.node(),
    }


def _judge(board: Board, world: int, whole: Plan | None, seconds: float) -> str:
    """What is wrong, or nothing."""
    try:
        cards = _await(board, [f"here/{rank}" for rank in range(world)], seconds)
    except Stopped as absent:
        return str(absent)
    for key, what in (("plan", "plan"), ("torch", "torch version"), ("ranks", "world size")):
        others = [rank for rank, card in enumerate(cards) if card[key] != cards[0][key]]
        if others:
            other = cards[others[0]]
            return (
                f"{ranks(others)} on {other['host']} has another {what}: "
                f"{_short(other[key])}, and rank 0 has {_short(cards[0][key])}"
            )
    if whole is not None:
        try:
            prove_all(whole.programs, whole.claims)
        except Rejected as rejected:
            reasons = "\n  ".join(d.message for d in rejected.diagnostics)
            return f"the plan's proof fails, so it is not run:\n  {reasons}"
    return ""


def _await(board: Board, keys: Sequence[str], seconds: float) -> list[Any]:
    try:
        return board.wait(keys, seconds)
    except Missing as missing:
        absent = sorted(int(key.rsplit("/", 1)[-1]) for key in missing.keys if "/" in key) or [0]
        raise Stopped(
            f"{ranks(absent)} did not come within {seconds:g} s: is every process started?"
        ) from None


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text
