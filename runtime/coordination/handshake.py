"""How the ranks make sure, before the first step, that they mean the same: all are there, with one
plan and one version of torch, and that plan is proved. Rank 0 judges for all; the others wait for
its verdict."""

import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.runtime.coordination.peers import Peers
from stretto.runtime.coordination.questions import ANSWER
from stretto.runtime.coordination.stall import absence, others_at_work
from stretto.runtime.coordination.store import MissingKeys
from stretto.runtime.describe import ranks
from stretto.runtime.errors import PipelineError

PROOF_TIMEOUT = 1800.0  # seconds that rank 0 may take to prove a plan


def shake_hands(
    peers: Peers, digest: str, own: Any, prove: Callable[[Sequence[Any]], None]
) -> list[Any]:
    """Returns when all ranks are there with the plan of this hash: what each tells the others
    (`own` of this one, JSON). Rank 0 calls `prove` with that, which raises `Rejected` or
    `PipelineError` where the plan is not to be run. Raises `PipelineError`, on all ranks that are
    there."""
    peers.store.post(f"here/{peers.rank}", _introduction(digest, peers.world, own))
    if peers.rank == 0:
        fault = _judge(peers, prove)
        peers.store.post("verdict", fault)
    else:
        _await(peers, ["here/0"], peers.timeout)
        fault = _await(peers, ["verdict"], PROOF_TIMEOUT)[0]
    if fault:
        raise PipelineError(fault)
    cards = _await(peers, [f"here/{rank}" for rank in range(peers.world)], peers.timeout)
    return [card["own"] for card in cards]


def roll_call(peers: Peers) -> None:
    """Returns when all ranks are there. Raises `PipelineError` naming those that are not."""
    peers.store.post(f"roll/{peers.rank}", True)
    try:
        peers.store.wait([f"roll/{other}" for other in range(peers.world)], peers.timeout)
    except MissingKeys as missing:
        absent = sorted(int(key.rsplit("/", 1)[-1]) for key in missing.keys)
        raise _late(absent, peers.timeout) from None


def _introduction(digest: str, world: int, own: Any) -> dict[str, Any]:
    return {
        "own": own,
        "plan": digest,
        "ranks": world,
        "torch": torch.__version__,
        "host": platform.node(),
    }


def _judge(peers: Peers, prove: Callable[[Sequence[Any]], None]) -> str:
    """What is wrong; empty where nothing is."""
    try:
        cards = _await(peers, [f"here/{rank}" for rank in range(peers.world)], peers.timeout)
    except PipelineError as absent:
        return str(absent)
    for key, what in (("plan", "plan"), ("torch", "torch version"), ("ranks", "world size")):
        others = [rank for rank, card in enumerate(cards) if card[key] != cards[0][key]]
        if others:
            other = cards[others[0]]
            return (
                f"{ranks(others)} on {other['host']} has another {what}: "
                f"{_short(other[key])}, and rank 0 has {_short(cards[0][key])}"
            )
    try:
        prove([card["own"] for card in cards])
    except PipelineError as error:
        return str(error)
    except Rejected as rejected:
        reasons = "\n  ".join(d.message for d in rejected.diagnostics)
        return f"the plan's proof fails, so it is not run:\n  {reasons}"
    return ""


def _await(peers: Peers, keys: Sequence[str], seconds: float) -> list[Any]:
    """The values of the keys. A rank that is slow to come is waited for while it is at work."""
    while True:
        try:
            return peers.store.wait(keys, seconds)
        except MissingKeys as missing:
            absent = sorted(int(key.rsplit("/", 1)[-1]) for key in missing.keys if "/" in key)
            absent = absent or [0]
            questions = peers.questions()
            answers = questions.await_answers(
                questions.ask(), absent, lambda: time.sleep(0.05), min(ANSWER, seconds)
            )
            silent = [rank for rank in absent if rank not in answers]
            if silent:
                raise _late(silent, seconds) from None
            if not others_at_work(peers.rank, answers, seconds):
                raise PipelineError(absence(absent, answers, seconds)) from None


def _late(absent: Sequence[int], seconds: float) -> PipelineError:
    return PipelineError(
        f"{ranks(absent)} did not come within {seconds:g} s: is every process started?"
    )


def _short(value: Any) -> str:
    """The beginning of a hash; other values as they are."""
    text = str(value)
    return text[:12] if len(text) == 64 else text
