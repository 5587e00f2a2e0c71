"""What the user's own functions raise, as a `PipelineError` that says which of them, on which rank
and at which step."""

from collections.abc import Iterator
from contextlib import contextmanager

from stretto.runtime.errors import PipelineError, spelled


@contextmanager
def user_code(what: str, rank: int, step: int) -> Iterator[None]:
    """Around a call of the user's code; `what` stands before `fails`. A `PipelineError` passes."""
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:
        raise PipelineError(
            f"{what} fails on rank {rank} at step {step}: {spelled(error)}"
        ) from error
