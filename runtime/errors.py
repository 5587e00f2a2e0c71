"""Why a step cannot begin or cannot go on."""

from stretto.compiler.diagnostics.printable import shortened, told


class PipelineError(Exception):
    """The message says it in the plan's terms: which rank, at which operation and line, for what
    reason, and what to do about it. What the user's own code raised is its `__cause__`."""

    def __str__(self) -> str:
        """Names and the words of others are in it, and whoever catches it prints it."""
        return told(super().__str__())


class NonFiniteError(PipelineError):
    """A loss, or the norm of the gradients, is NaN or infinite. Every rank raises it alike, and the
    executor can go on; where its gradients were averaged with those of replicas, it cannot."""


class StepRefused(PipelineError):
    """A step cannot begin: a rank was given a batch that is wrong, or ranks were given batches that
    do not fit each other. Every rank raises it, nothing was sent, and the executor can go on."""


Stopped = PipelineError
"""The former name, kept for those who catch it."""


def words_of(error: BaseException) -> str:
    """What an exception says, a user's too: its `__str__` may itself raise, or give no text. Of
    very many words the first and the last."""
    try:
        return shortened(str(error))
    except Exception as other:
        return f"(it cannot be printed: its __str__ raises {type(other).__name__})"


def first_line_of(error: BaseException) -> str:
    """Its first line; of one without words the name of its type."""
    return (words_of(error).splitlines() or [type(error).__name__])[0]


def spelled(error: BaseException) -> str:
    """The same, behind the name of its type: `ValueError: too large`."""
    return f"{type(error).__name__}: {words_of(error)}".removesuffix(": ")
