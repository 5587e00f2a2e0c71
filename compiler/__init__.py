"""The compiler: from the text of a schedule to a proved plan. Imports no torch.

The values, in the order the data flows, each have a room of their own (`language`, `evaluation`,
`problem`, `order`, `program`, `proof`, `bounds`, `plan`); `driver` is the line through them.
"""

from typing import Any

_HOMES = {
    "parse": "language.parse",
    "evaluate": "evaluation",
    "expand": "problem.expand",
    "arrange": "order.arrange",
    "communicate": "program.communicate",
    "prove": "proof.prove",
    "bound": "bounds.bound",
    "time": "program.timeline",
    "compile_file": "driver",
    "compile_text": "driver",
    "read_plan": "plan.plan",
    "write_plan": "plan.plan",
    "Rejected": "diagnostics.diagnostic",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Loads an arrow's module when it is first asked for, so that reading a plan needs neither
    the parser nor the graph library."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
