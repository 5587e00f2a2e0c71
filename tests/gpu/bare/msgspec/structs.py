"""What can be asked of a struct."""

from typing import Any, NamedTuple

from msgspec.values import MISSING


class FieldInfo(NamedTuple):
    """One field."""

    name: str
    required: bool


def fields(of: Any) -> tuple[FieldInfo, ...]:
    """Those of a struct or of its type, in order."""
    defaults = of.__struct_own_defaults__
    return tuple(FieldInfo(n, defaults[n] is MISSING) for n in of.__struct_fields__)


def asdict(value: Any) -> dict[str, Any]:
    """The fields by name."""
    return {name: getattr(value, name) for name in value.__struct_fields__}


def replace(value: Any, **changes: Any) -> Any:
    """A copy with some fields changed."""
    return type(value)(**{**asdict(value), **changes})
