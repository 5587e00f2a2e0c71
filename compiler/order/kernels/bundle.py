"""`Bundle`: the arrays that a loop works on, under their names.

A compiled loop is handed one address for all of them: of a table that says where each array lies
and how long it is. To hand dozens of arrays over one by one, each with its counter, shape and
strides, makes the code of every call so large that compiling it takes most of a minute.
"""

from dataclasses import fields
from functools import cache
from typing import Annotated, Any, TypeAlias

Ints: TypeAlias = Annotated[Any, 1]
"""Integers as the loops read them: a numpy array where loops are compiled, else a list."""

IntRows: TypeAlias = Annotated[Any, 2]
"""Rows of them, equally long."""


class Bundle:
    """The base of frozen dataclasses with slots whose fields are `Ints`, `IntRows`, `int`, `bool`
    or other Bundles. The arrays may change, but not which they are."""

    __slots__ = ("table",)
    table: Any
    """Where they lie, once a compiled loop has asked (`native`)."""


def words_of(kind: Any) -> int:
    """How many words of a table describe a field: where it lies, and its lengths; or its value."""
    return 2 if kind == Ints else 3 if kind == IntRows else 1


@cache
def layout(cls: Any) -> dict[str, tuple[Any, int]]:
    """The fields of a Bundle: what each is, and its first word in the table."""
    found: dict[str, tuple[Any, int]] = {}
    at = 0
    for one in fields(cls):
        found[one.name] = (one.type, at)
        at += words_of(one.type)
    return found
