"""Compile the loops of the search, and keep them: `python -m stretto.compiler.order.warm SET…`, as
a search starts it beside itself, and what `stretto warm` does.

Every loop that plain code calls stands here with what it is called with, so that it can be compiled
without a search.
"""

import gc
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from stretto.compiler.order.engines import local_search, modulo, one_f_one_b, priorities
from stretto.compiler.order.kept import SETS, alone, keep, kept
from stretto.compiler.order.kernels import evaluator, list_scheduler, part_words
from stretto.compiler.order.kernels.annealing import Cooling, Goal
from stretto.compiler.order.kernels.arrays import Arrays
from stretto.compiler.order.kernels.bundle import Bundle, Ints
from stretto.compiler.order.kernels.jit import engage, ints

COOLING, GOAL = Cooling(1, 1.0, 1.0), Goal(False, 0.1, 0)

LOOPS: dict[str, tuple[tuple[Any, str, tuple[Any, ...]], ...]] = {
    "list": (
        (evaluator, "evaluate", (evaluator.Evaluator, Ints, False)),
        (
            list_scheduler,
            "list_schedule",
            (Arrays, list_scheduler.Policy, list_scheduler.ListState),
        ),
    ),
    "alternating": ((one_f_one_b, "anneal", (one_f_one_b.WarmupState, COOLING, GOAL)),),
    "periodic": (
        (modulo, "unroll", (Arrays, modulo.ModuloSchedule, 0, Ints)),
        (
            modulo,
            "anneal",
            (
                evaluator.Evaluator,
                modulo.ModuloSchedule,
                modulo.ModuloSchedule,
                Ints,
                Ints,
                COOLING,
                GOAL,
            ),
        ),
    ),
    "anneal": ((local_search, "anneal", (evaluator.Evaluator, Ints, Ints, COOLING, GOAL, False)),),
    "offsets": ((priorities, "anneal", (priorities.PriorityState, COOLING, GOAL)),),
    "parts": (
        (
            part_words,
            "anneal_parts",
            (part_words.PartArrays, part_words.PartWords, COOLING, 0, 0, False, 0),
        ),
    ),
}
"""By engine: the module of a loop, its name there, and for each argument its class, or one like
it."""


def engines_of(name: str) -> tuple[str, ...]:
    """The engines whose loops are in a set."""
    return ("parts",) if name == "parts" else tuple(one for one in LOOPS if one != "parts")


def compile_loops(engines: Iterable[str]) -> None:
    """Have the loops of these engines compiled in this process, or read where they are kept."""
    engage()
    numba: Any = import_module("numba")
    native: Any = import_module("stretto.compiler.order.kernels.native")

    def typed(one: Any) -> Any:
        if one == Ints:
            return numba.typeof(ints([0]))
        if isinstance(one, type) and issubclass(one, Bundle):
            return native.type_of(one)
        return numba.typeof(one)

    enabled = gc.isenabled()
    gc.enable()  # a compiler leaves circles behind: without a collector it takes twice the memory
    try:
        for engine in engines:
            for module, name, arguments in LOOPS[engine]:
                getattr(module, name).compile(tuple(typed(one) for one in arguments))
    finally:
        if not enabled:
            gc.disable()


def warm(names: Iterable[str]) -> bool:
    """Compile what is missing of these sets, and keep it. False where another process is at it.
    Raises `OSError` where nothing can be kept."""
    with alone() as free:
        if not free:
            return False
        for name in names:
            if not kept(name):
                compile_loops(engines_of(name))
                keep(name)
    return True


if __name__ == "__main__":
    warm([name for name in sys.argv[1:] if name in SETS])
