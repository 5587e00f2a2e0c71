"""Plain loops or compiled ones: what a search runs on, before it begins.

Compiling takes a quarter of a minute, once per machine. A search by effort, which finds the same
either way, waits for it where plain loops would take longer. A search that has so many seconds
never waits: another process compiles, and until that is done the search goes on with plain loops;
nor does a short one wait for compiled ones to be read before it has an order.
"""

from collections.abc import Callable
from functools import wraps
from math import inf
from threading import RLock
from typing import ParamSpec, TypeVar

from stretto.compiler.order.budget import Budget, SearchProgress
from stretto.compiler.order.kept import READING, LoopsToCome, compiling, kept
from stretto.compiler.order.kernels.jit import available, disengage, engage, fast, loops_folder
from stretto.compiler.order.open_search import WORK

PLAIN = 8e-6
"""Seconds of one core that plain loops take for an operation, about."""

LISTS = 250
"""Sequences that are replayed without an effort."""

COMPILING, LISTING = 15.0, 6.0
"""Seconds of one core, about: to compile a set of loops, and to compile those that are used without
an effort."""

ORDERS = 10
"""So many published orders are replayed, about, before a search begins."""

COMPILES = "compiling the search's loops, once per machine"

LoopArguments = ParamSpec("LoopArguments")
LoopResult = TypeVar("LoopResult")
Starter = Callable[[str], LoopsToCome | None]


_one = RLock()


def one_at_a_time(
    function: Callable[LoopArguments, LoopResult],
) -> Callable[LoopArguments, LoopResult]:
    """The function, of which one call runs in this process at a time: searches in several threads
    would exchange the loops under each other."""

    @wraps(function)
    def alone(*arguments: LoopArguments.args, **named: LoopArguments.kwargs) -> LoopResult:
        with _one:
            return function(*arguments, **named)

    return alone


def loops_for(
    name: str,
    size: int,
    budget: Budget,
    start: Starter = compiling,
    *,
    published: bool = True,
) -> LoopsToCome | None:
    """Have a search of so many operations run on the loops that suit it: compiled ones of the set
    `name` where they are at hand, or worth their compiling. What is returned are those that the
    search is to look for while it runs on plain ones: another process compiles them, or they are
    there, but the search begins with `published` orders, which may be all that is needed, and has
    tried them sooner than compiled loops are read."""
    if not available():
        return None
    plain = PLAIN * size * LISTS
    if budget.effort is not None:
        plain += PLAIN * WORK * budget.effort
        if fast():
            return None
        if kept(name):
            if plain > READING:
                engage()
        elif plain > (COMPILING if budget.effort else LISTING):
            _say(budget, COMPILES)
            _compile(name, bool(budget.effort))
        return None
    if kept(name):
        if published and not fast() and PLAIN * size * ORDERS < READING:
            return LoopsToCome(name)
        engage()
        return None
    if loops_folder() is None:
        _say(budget, "compiled loops cannot be kept here (see XDG_CACHE_HOME): plain ones search")
        return None
    disengage()
    coming = start(name)
    if coming is not None:
        _say(budget, f"{COMPILES}, by a process beside this one; until then plain ones search")
    return coming


def _compile(name: str, everything: bool) -> None:
    """Compile here and now what is used."""
    from stretto.compiler.order.warm import compile_loops, engines_of

    compile_loops(engines_of(name) if everything else ("list", "alternating"))


def _say(budget: Budget, words: str) -> None:
    if budget.progress is not None:
        budget.progress(SearchProgress(words, 0, 0, inf))
