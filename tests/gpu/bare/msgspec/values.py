"""Structs: classes whose annotations are their fields."""

from operator import attrgetter
from typing import Any

MISSING: Any = object()


def _annotated(space: dict[str, Any]) -> list[str]:
    """The fields that a class body names. From Python 3.14 on it has a function that tells."""
    if "__annotations__" in space:
        return list(space["__annotations__"])
    for name in ("__annotate_func__", "__annotate__"):
        if name in space:
            from annotationlib import Format, call_annotate_function  # type: ignore[import-not-found]

            return list(call_annotate_function(space[name], Format.FORWARDREF))
    return []


def _equip(
    made: Any, defaults: dict[str, Any], frozen: bool, eq: bool, order: bool, kw_only: bool
) -> None:
    names = tuple(defaults)
    values = _values(names)
    made.__init__ = _constructor(made, defaults, kw_only)

    def equal(self: Any, other: Any) -> Any:
        return values(self) == values(other) if type(self) is type(other) else NotImplemented

    def less(self: Any, other: Any) -> Any:
        return values(self) < values(other) if type(self) is type(other) else NotImplemented

    def refuse(self: Any, name: str, value: Any = None) -> None:
        raise AttributeError(f"immutable type: '{type(self).__name__}'")

    if eq:
        made.__eq__ = equal
        made.__hash__ = (lambda self: hash(values(self))) if frozen else None
    if order:
        made.__lt__ = less
    if frozen:
        made.__setattr__ = made.__delattr__ = refuse


def _values(names: tuple[str, ...]) -> Any:
    """All fields as a tuple."""
    return attrgetter(*names) if len(names) > 1 else lambda value: (getattr(value, names[0]),)


def _constructor(made: Any, defaults: dict[str, Any], kw_only: bool) -> Any:
    """`__init__`, written out: one assignment for each field, through its slot."""
    scope: dict[str, Any] = {"MISSING": MISSING}
    given, lines = [], []
    for name, default in defaults.items():
        scope[f"set_{name}"] = getattr(made, name).__set__
        if default is MISSING:
            given.append(name)
        else:
            scope[f"of_{name}"] = default
            given.append(f"{name}=of_{name}")  # an empty container is made anew each time
            if default == {} or default == []:
                lines.append(f"if {name} is of_{name}: {name} = of_{name}.copy()")
        lines.append(f"set_{name}(self, {name})")
    head = ", ".join(["self", *(["*"] if kw_only else []), *given])
    exec(f"def __init__({head}):\n " + "\n ".join(lines), scope)
    return scope["__init__"]


class StructMeta(type):
    """Makes a class with a slot for each field, and a constructor that takes them in order. Of the
    options those that decide about equality, order and how it is written; the others (speed, strict
    reading) do not show here."""

    def __new__(
        mcls,
        name: str,
        bases: tuple[type, ...],
        space: dict[str, Any],
        *,
        frozen: bool = False,
        eq: bool = True,
        order: bool = False,
        kw_only: bool = False,
        tag: str | None = None,
        array_like: bool = False,
        omit_defaults: bool = False,
        weakref: bool = False,
        **_: Any,
    ) -> Any:
        own = _annotated(space)
        defaults: dict[str, Any] = {}
        for base in bases:
            defaults |= getattr(base, "__struct_own_defaults__", {})
        fresh = [field for field in own if field not in defaults]
        defaults |= {field: space.pop(field, MISSING) for field in own}
        space["__slots__"] = (*fresh, *(["__weakref__"] if weakref else []))
        made: Any = super().__new__(mcls, name, bases, space)
        made.__struct_fields__ = made.__match_args__ = tuple(defaults)
        made.__struct_own_defaults__ = defaults
        made.__struct_written__ = tag, array_like, omit_defaults
        if defaults:
            _equip(made, defaults, frozen, eq, order, kw_only)
        return made

    def __init__(cls, name: str, bases: tuple[type, ...], space: dict[str, Any], **_: Any):
        super().__init__(name, bases, space)


class Struct(metaclass=StructMeta):
    """As msgspec's."""

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__)
        return f"{type(self).__name__}({told})"

    def __copy__(self) -> Any:
        return self

    def __reduce__(self) -> Any:
        return type(self), tuple(getattr(self, name) for name in self.__struct_fields__)


def to_builtins(value: Any) -> Any:
    """Structs as dicts or lists, tuples as lists."""
    if isinstance(value, Struct):
        tag, array_like, omit = value.__struct_written__
        pairs = {name: getattr(value, name) for name in value.__struct_fields__}
        if array_like:
            return [*([] if tag is None else [tag]), *map(to_builtins, pairs.values())]
        if omit:
            defaults: Any = type(value).__struct_own_defaults__  # type: ignore[attr-defined]
            pairs = {name: one for name, one in pairs.items() if one != defaults[name]}
        return {name: to_builtins(one) for name, one in pairs.items()}
    if isinstance(value, dict):
        return {key: to_builtins(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_builtins(one) for one in value]
    return value
