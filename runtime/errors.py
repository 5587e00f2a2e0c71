"""Why a step cannot begin or cannot go on."""


class Stopped(Exception):
    """The message says it in the plan's words: which rank, at which operation and line, for what
    reason, and what to do about it. What the user's own code raised stands behind it as cause."""
