"""Whether a step stands still, and the report of it. In come the ranks' answers to the question
where they are; out comes who waits, at which operation and line, for whom, and what that one is
doing."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from stretto.runtime.describe import ranks

MOST = 16  # ranks that a report tells of, besides its own
PATIENCE = 5  # timeouts for which a rank may be at one operation, as long as it is at work
_SILENT = {
    "": "no answer, the process is stopped or gone",
    "gone": "no answer, the process is stopped or gone (it is gone)",
    "stopped": "no answer, the process is stopped or gone (it is stopped)",
    "running": "no answer, though the process runs: it keeps its other threads from running",
}


class Answer(NamedTuple):
    """Where a rank is: `where` follows `rank 2 ` in a sentence; `waiting_for` has the ranks it
    waits for, none where it computes; not `busy` where it is between steps; `seconds` since it
    last moved on, and `idle` since it did, was seen to compute, or tensors came or went; `patient`:
    it may take as long as it likes."""

    where: str
    waiting_for: tuple[int, ...]
    busy: bool
    seconds: float
    idle: float
    patient: bool = False


Answers = Mapping[int, Answer]


def is_at_work(rank: int, answers: Answers, timeout: float) -> bool:
    """Whether this rank waits for something that is being done: the rank for which, in the end, it
    waits computes, or tensors move to or from a rank on the way to that one, and it is less than
    the timeout (seconds) since they did. After `PATIENCE` timeouts at one operation no more."""
    chain = _waiting_chain(rank, answers)
    last = answers.get(chain[-1])
    if last is None:
        return False
    if last.patient:
        return True
    if last.seconds > timeout * PATIENCE:
        return False
    return any(answers[other].idle < timeout for other in chain if other in answers)


def others_at_work(rank: int, answers: Answers, timeout: float) -> bool:
    """Whether any other rank than this one, which waits for words and not for tensors, computes or
    exchanges tensors, and so may come to say them."""
    return any(
        answer.patient or (answer.idle < timeout and answer.seconds < timeout * PATIENCE)
        for other, answer in answers.items()
        if other != rank
    )


def absence(others: Sequence[int], answers: Answers, timeout: float) -> str:
    """Where these ranks are, whose words were awaited in vain, in one line."""
    silent = [other for other in others if other not in answers]
    told = [_told(other, answers[other]) for other in others if other in answers][:MOST]
    if silent:
        told.insert(0, f"{ranks(silent)}: no answer")
    return f"nothing was heard for {timeout:g} s: {'; '.join(told)}"


def stall_report(
    rank: int,
    world: int,
    answers: Answers,
    seen: Callable[[int], str] = lambda _: "",
    last: Callable[[int], str] = lambda _: "",
) -> str:
    """What this rank says of a step that stands still, in several lines: behind its own the one
    that names the culprit, as far as it is known, then all others. `seen` tells of a silent
    rank what this machine's kernel knows of its process, as `processes.state`, `last` what it did
    last."""
    chain = list(dict.fromkeys(_waiting_chain(rank, answers)))
    silent = [other for other in range(world) if other not in answers]
    lines = [f"the step stands still: {_told(rank, answers[rank])}"]
    for known in dict.fromkeys((seen(other), last(other)) for other in silent):
        alike = [other for other in silent if (seen(other), last(other)) == known]
        where = f"; the last that was seen: it {known[1]}" if known[1] else ""
        lines.append(f"  {ranks(alike)}: {_SILENT[known[0]]}{where}")
    others = [other for other in [chain[-1], *chain[1:], *sorted(answers)] if other != rank]
    told = [other for other in dict.fromkeys(others) if other in answers]
    lines += [f"  {_told(other, answers[other])}" for other in told[:MOST]]
    return "\n".join(lines)


def _waiting_chain(rank: int, answers: Answers) -> list[int]:
    """This rank, the one it waits for, the one which that waits for, and so on: to one that waits
    for nobody, has not answered, or stands in the chain already. Of several that it waits for
    those come first."""
    chain = [rank]
    while True:
        answer = answers.get(chain[-1])
        if answer is None or not answer.waiting_for:
            return chain
        silent = [peer for peer in answer.waiting_for if peer not in answers]
        free = [p for p in answer.waiting_for if p in answers and not answers[p].waiting_for]
        following = (silent or free or answer.waiting_for)[0]
        if following in chain:
            return [*chain, following]
        chain.append(following)


def _told(rank: int, answer: Answer) -> str:
    return f"rank {rank} {answer.where}, for {answer.seconds:.0f} s"
