"""The compiler: from the text of a schedule to a proved plan. Imports no torch.

The values, in the order the data flows, each have a room of their own (`language`, `evaluation`,
`problem`, `order`, `program`, `proof`, `bounds`, `plan`); `driver` is the line through them.
"""

TYPE_CHECKING = False  # not `typing`'s, which takes a while to load: Ctrl-C is not caught yet
if TYPE_CHECKING:
    from typing import Any

    from stretto.compiler.bounds import bound
    from stretto.compiler.diagnostics.diagnostic import Rejected
    from stretto.compiler.driver import compile_file, compile_text
    from stretto.compiler.evaluation import evaluate
    from stretto.compiler.language import parse
    from stretto.compiler.order.arrange import arrange
    from stretto.compiler.plan.plan import read_plan, write_plan
    from stretto.compiler.problem.expand import expand
    from stretto.compiler.program.communicate import communicate
    from stretto.compiler.program.timeline import time
    from stretto.compiler.proof.prove import prove

_HOMES = {
    "parse": "language",
    "evaluate": "evaluation",
    "expand": "problem.expand",
    "arrange": "order.arrange",
    "communicate": "program.communicate",
    "prove": "proof.prove",
    "bound": "bounds",
    "time": "program.timeline",
    "compile_file": "driver",
    "compile_text": "driver",
    "read_plan": "plan.plan",
    "write_plan": "plan.plan",
    "Rejected": "diagnostics.diagnostic",
}

__all__ = [
    "Rejected",
    "arrange",
    "bound",
    "communicate",
    "compile_file",
    "compile_text",
    "evaluate",
    "expand",
    "parse",
    "prove",
    "read_plan",
    "time",
    "write_plan",
]


def __getattr__(name: str) -> "Any":
    """Loads an arrow's module when it is first asked for, so that reading a plan needs neither
    the parser nor the graph library."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
