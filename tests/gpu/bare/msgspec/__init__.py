"""In place of msgspec on a machine that has torch and nothing else: as much of it as a compile and
a step need. Values are made, compared, changed and written, to the same bytes; no plan is read."""

from msgspec import json as json
from msgspec import structs as structs
from msgspec.values import Struct as Struct
from msgspec.values import to_builtins as to_builtins

__version__ = "stand-in"


class MsgspecError(Exception):
    """As there."""


class DecodeError(MsgspecError):
    """As there."""


class ValidationError(DecodeError):
    """As there."""


class Raw(bytes):
    """As there."""
