"""What is printed where the locale cannot show it. A handler of errors of Python's codecs, by which
every stream writes the few marks of ours that are not ASCII as ASCII marks, each as wide as it was
but for the three points of what is left out; and spells out whatever else does not fit.

What stands in a row that others are aligned with is `spelled` before the row is laid out.
"""

import codecs

HANDLER = "stretto.marks"
MARKS = str.maketrans(
    {"…": "...", "·": ":", "×": "x", "–": "-", "—": "-", "−": "-", "→": ">", "≥": ">", "’": "'"}
)


def register() -> str:
    """Make the handler known to Python; returns its name, for the `errors` of a stream."""
    codecs.register_error(HANDLER, _marked)
    return HANDLER


def _marked(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start : error.end]
    plain = wrong.translate(MARKS)
    return plain.encode("ascii", "backslashreplace").decode("ascii"), error.end


def marked(text: str, encoding: str) -> str:
    """The text as a stream of this encoding writes it: where the stream is not ours to prepare."""
    return text.encode(encoding, register()).decode(encoding)


def spelled(text: str, encoding: str) -> str:
    """The text with what this encoding lacks spelled out, so that its length is known."""
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return text.encode("ascii", "backslashreplace").decode("ascii")
    return text
