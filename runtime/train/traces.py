"""What is shown of the way to an error in the user's own code: the frames that are the user's.
torch's and ours between them tell whoever wrote the model nothing, and are left out unless the
variable `STRETTO_TRACEBACK` is `full`."""

import os
from collections.abc import Iterator
from traceback import StackSummary, TracebackException, walk_tb

from stretto.runtime.aloud import is_ours
from stretto.runtime.errors import words_of

VARIABLE = "STRETTO_TRACEBACK"
HEAD = "Traceback (most recent call last):"
SHORT = f"Traceback (most recent call last; {VARIABLE}=full shows torch's frames and ours too):"


def trace_of(error: BaseException, message: str, *, whole: bool = False) -> str:
    """The traceback of what the user's code raised; of one without a frame of the user's nothing.
    What the sentence `message`, which comes behind it, says anyway stands only there. `whole`: as
    if the variable were set."""
    told = TracebackException.from_exception(error)
    if whole or os.environ.get(VARIABLE) == "full":
        return "".join(told.format()).rstrip("\n")
    if not [frame for one, its in _chain(told, error) for frame in _shorten(one, its)]:
        return ""
    lines = "".join(told.format()).rstrip("\n").replace(HEAD, SHORT, 1)
    return lines.removesuffix(_last(told)).rstrip("\n") if words_of(error) in message else lines


def _chain(
    told: TracebackException | None, error: BaseException | None
) -> Iterator[tuple[TracebackException, BaseException]]:
    """The error and those that it comes from."""
    if told is not None and error is not None:
        yield told, error
        yield from _chain(told.__cause__, error.__cause__)
        yield from _chain(told.__context__, error.__context__)


def _shorten(told: TracebackException, error: BaseException) -> StackSummary:
    """What is left of its frames when those that are not the user's are gone."""
    frames = walk_tb(error.__traceback__)
    kept = [one for one, (frame, _) in zip(told.stack, frames, strict=True) if not is_ours(frame)]
    told.stack = StackSummary.from_list(kept)
    return told.stack


def _last(told: TracebackException) -> str:
    return "".join(told.format_exception_only()).rstrip("\n")
