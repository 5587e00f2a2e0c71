"""The compiler: from the text of a schedule to a proved plan. Imports no torch.

The arrows, in the order the data flows, are each in a module of their own (`parse`, `evaluate`,
`expand`, `order`, `communicate`, `prove`, `bound`, `plan`); `driver` is the line through them.
"""

from typing import Any

_HOMES = {
    "parse": "parse",
    "evaluate": "evaluate",
    "expand": "expand",
    "arrange": "order.arrange",
    "communicate": "communicate",
    "prove": "prove",
    "bound": "bound",
    "time": "timeline",
    "compile_file": "driver",
    "compile_text": "driver",
    "read_plan": "plan",
    "write_plan": "plan",
    "Rejected": "diagnostics",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Loads an arrow's module when it is first asked for, so that reading a plan needs neither
    the parser nor the graph library."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
