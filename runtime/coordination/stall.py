"""Whether a step stands still, and the report of it. In come the ranks' answers to the question
where they are; out comes who waits, at which operation and line, for whom, and what that one is
doing."""

from collections.abc import Mapping
from typing import NamedTuple

from stretto.runtime.describe import ranks

MOST = 16  # ranks that a report tells of, besides its own


class Answer(NamedTuple):
    """Where a rank is: `where` follows `rank 2 ` in a sentence; `waiting_for` has the ranks it
    waits for, none where it computes; not `busy` where it is between steps; `seconds` since it
    last moved on."""

    where: str
    waiting_for: tuple[int, ...]
    busy: bool
    seconds: float


Answers = Mapping[int, Answer]


def is_at_work(rank: int, answers: Answers, timeout: float) -> bool:
    """Whether the rank for which, in the end, this one waits is computing, and has been for less
    than the timeout (seconds)."""
    last = answers.get(_waiting_chain(rank, answers)[-1])
    return last is not None and not last.waiting_for and last.seconds < timeout


def stall_report(rank: int, world: int, answers: Answers) -> str:
    """What this rank says of a step that stands still, in several lines."""
    chain = list(dict.fromkeys(_waiting_chain(rank, answers)))
    silent = [other for other in range(world) if other not in answers]
    lines = [f"the step stands still: {_told(rank, answers[rank])}"]
    if silent:
        lines.append(f"  {ranks(silent)}: no answer, the process is stopped or gone")
    others = [other for other in [*chain[1:], *sorted(answers)] if other != rank]
    known = [other for other in dict.fromkeys(others) if other in answers]
    lines += [f"  {_told(other, answers[other])}" for other in known[:MOST]]
    return "\n".join(lines)


def _waiting_chain(rank: int, answers: Answers) -> list[int]:
    """This rank, the one it waits for, the one which that waits for, and so on: to one that waits
    for nobody, has not answered, or stands in the chain already."""
    chain = [rank]
    while True:
        answer = answers.get(chain[-1])
        if answer is None or not answer.waiting_for:
            return chain
        silent = [peer for peer in answer.waiting_for if peer not in answers]
        following = (silent or answer.waiting_for)[0]
        if following in chain:
            return [*chain, following]
        chain.append(following)


def _told(rank: int, answer: Answer) -> str:
    return f"rank {rank} {answer.where}, for {answer.seconds:.0f} s"
