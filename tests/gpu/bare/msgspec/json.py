"""Values as JSON."""

import json
from typing import Any

from msgspec.values import to_builtins


def encode(value: Any, *, order: str | None = None) -> bytes:
    """The bytes that msgspec writes: no blanks, texts as they are, and keys `sorted` or as they
    stand."""
    plain = to_builtins(value)
    text = json.dumps(plain, separators=(",", ":"), ensure_ascii=False, sort_keys=order == "sorted")
    return text.encode()


def decode(raw: bytes, *, type: Any = None) -> Any:
    """Without a type as `json.loads`. Raises `NotImplementedError` with one."""
    if type is not None:
        raise NotImplementedError("this stand-in for msgspec reads no plans")
    return json.loads(raw)


class Decoder:
    """Is made, and reads nothing: raises `NotImplementedError`."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __class_getitem__(cls, _: Any) -> Any:
        return cls

    def decode(self, raw: bytes) -> Any:
        return decode(raw, type=Any)
