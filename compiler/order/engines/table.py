"""The engines, and the steps of a search: what the command line, the documents and `search` read.

To add an engine: a file with `run(state, share)` in this folder, a row in ENGINES, and a step in
PHASES where it pays; its loops have a row in `order/warm.py`. Stages in parts are searched by the
engines and steps of `parts/search.py`. The table names the modules in words and loads one when it
is to run, since the engines load numba and the command line need not.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from stretto.compiler.order.search_state import SearchState


class Engine(Struct, frozen=True):
    """`name` as in plans and for `--engine`, which takes the `aliases` too. `module`, in this
    folder, has `run(state, share)`, which looks for better orders within a share of what is left.
    `summary`: what it does; `suits`: what it is good at (both in Markdown). `after`: the engines
    that it starts from, where it is the only one asked for."""

    name: str
    aliases: tuple[str, ...]
    module: str
    summary: str
    suits: str
    after: tuple[str, ...] = ()

    def run(self, state: "SearchState", share: float) -> None:
        """Look for better orders within this share of what is left to spend. Raises `SearchDone`
        when one is good enough."""
        self._module().run(state, share)
        state.runs[self.name] = state.runs.get(self.name, 0) + 1

    def _module(self) -> Any:
        return import_module(f"{__package__}.{self.module}")


ENGINES: tuple[Engine, ...] = (
    Engine(
        name="library",
        aliases=("published",),
        module="published",
        summary="the published schedules that fit the placement and the limit",
        suits="a result that is never worse than these; one stage per rank where the limit is "
        "as many activations as there are ranks",
    ),
    Engine(
        name="list",
        aliases=("priority-rules",),
        module="priority_rules",
        summary="list scheduling by many priority rules; memory is reserved so that the "
        "micro-batches in flight can always finish, and no order gets stuck",
        suits="quick results everywhere: 200 000 operations in about a second per rule",
    ),
    Engine(
        name="alternating",
        aliases=("one-f-one-b", "k-f-1b"),
        module="one_f_one_b",
        summary="some forwards ahead, then a backward and a forward in turn (k-F-1B), weight "
        "gradients where they fit; simulated annealing over the two numbers per rank "
        "that describe this",
        suits="one stage per rank, any size, where the limit lies between the number of ranks "
        "and twice that; partial release",
    ),
    Engine(
        name="offsets",
        aliases=("priorities", "priority-search"),
        module="priorities",
        summary="one number for each stage's F, I and W says when it runs in the steady state; "
        "annealing over these numbers",
        suits="one stage per rank, any limit",
    ),
    Engine(
        name="periodic",
        aliases=("modulo",),
        module="modulo",
        summary="a modulo schedule: every rank repeats one cyclic order of its operations, "
        "truncated at both ends of the step; annealing over the cycles, judged by the "
        "whole step",
        suits="several stages per rank with little memory",
    ),
    Engine(
        name="anneal",
        aliases=("local-search", "restarts"),
        module="restarts",
        summary="simulated annealing: a small change to one rank's sequence, replayed from "
        "where it takes effect",
        suits="every placement, from a good start",
        after=("library", "list"),
    ),
    Engine(
        name="cpsat",
        aliases=("cp-sat",),
        module="cpsat",
        summary="CP-SAT on the whole problem, given the bound and the best order; on large "
        "problems large-neighbourhood search: what runs within a window of time is "
        "ordered anew, the rest stays",
        suits="proof up to some hundred operations; the last per cent where ranks are crowded",
        after=("library", "list"),
    ),
)

BY_NAME = {name: engine for engine in ENGINES for name in (engine.name, *engine.aliases)}
"""Every engine by its name and its aliases."""

NAMES = tuple(engine.name for engine in ENGINES)

PUBLISHED = frozenset(
    (
        "chimera",
        "deepseek_v3",
        "deepseek_v3_v",
        "dualpipe",
        "dualpipe_v",
        "eager_1f1b",
        "gems",
        "gpipe",
        "inference",
        "interleaved_1f1b",
        "interleaved_zero_bubble",
        "looped_bfs",
        "moe_1f1b",
        "one_f_one_b",
        "v_half",
        "v_min",
        "zb_h1",
        "zb_h2",
        "zb_v",
    )
)
"""The published schedules that `library` may name as where an order comes from."""


def finders() -> frozenset[str]:
    """Whom an order may come from that its author did not write."""
    return PUBLISHED.union(NAMES)


def engine(name: str) -> Engine:
    """The engine of this name or alias. Raises `KeyError`."""
    return BY_NAME[name]


# ---------------------------------------------------------------------------- the steps

LONG = 2000
"""Operations, beyond which annealing whole sequences gets slow."""

SMALL = 250
"""Operations, of which CP-SAT proves most."""

CLOSE = 1.01
"""Times the bound: what list schedules should reach."""


def always(state: "SearchState") -> bool:
    """Whatever the search has found."""
    return True


def searching(state: "SearchState") -> bool:
    """Whether anything may be searched: not with an effort of 0."""
    return state.budget.effort != 0


def timed(state: "SearchState") -> bool:
    """Whether seconds count, of which nobody knows beforehand what they are good for."""
    return state.budget.effort is None


def small(state: "SearchState") -> bool:
    """Whether CP-SAT probably proves an optimum at once."""
    return state.instance.size <= SMALL


def long(state: "SearchState") -> bool:
    """Whether there are so many operations that engines for steady states pay most."""
    return state.instance.size > LONG


def far(state: "SearchState") -> bool:
    """Whether ranks have several stages, and no published order comes close to the bound: list
    schedules probably do not either, and take longer than schedules for a steady state."""
    several = any(many > 1 for many in state.t.stages_on)
    return several and not (state.incumbents and state.best.value <= state.bound * CLOSE)


def crowded(state: "SearchState") -> bool:
    """Whether list schedules probably lose much: several stages on a rank under a limit, and what
    was found so far is not close to the bound."""
    several = any(many > 1 for many in state.t.stages_on)
    return several and bool(state.incumbents) and state.best.value > state.bound * CLOSE


Condition = Callable[["SearchState"], bool]


def _both(*conditions: Condition) -> Condition:
    return lambda state: all(condition(state) for condition in conditions)


def _either(*conditions: Condition) -> Condition:
    return lambda state: any(condition(state) for condition in conditions)


def _no(condition: Condition) -> Condition:
    return lambda state: not condition(state)


class SearchStep(Struct, frozen=True):
    """Run an engine with a share of what is left then, if the condition holds when its phase
    begins."""

    engine: str
    share: float = 1.0
    when: Condition = always


def _in_turn(share: float, rounds: int, when: Condition) -> Iterator[SearchStep]:
    """Modulo schedules and their annealing, again and again, with a share of what is left at
    first: luck decides which schedules lead far."""
    for turn in range(rounds):
        part = share / (rounds - share * turn)
        yield SearchStep("periodic", 0.5 * part, when)
        yield SearchStep("anneal", 0.5 * part / (1 - 0.5 * part), when)


PHASES: tuple[tuple[SearchStep, ...], ...] = (
    (SearchStep("library"),),
    (SearchStep("periodic", 0.0, _both(far, timed)),),  # at once, where little time is left
    (SearchStep("list"),),
    (SearchStep("cpsat", 0.3, _both(small, searching)),),  # most close at once
    (SearchStep("alternating", 0.6, long), SearchStep("alternating", 0.3, _no(long))),
    (
        SearchStep("periodic", 1.0, _both(crowded, _no(searching))),
        SearchStep("offsets", 0.1, _both(crowded, searching)),
        SearchStep("offsets", 0.4, _both(_no(crowded), searching)),
    ),
    (
        *_in_turn(0.55, 3, _both(crowded, searching)),
        SearchStep("anneal", 0.3, _both(_no(crowded), searching)),
        SearchStep("cpsat", 0.6, _both(_either(crowded, small), searching)),
        SearchStep("cpsat", 0.3, _both(_no(_either(crowded, small)), searching)),
    ),
    (SearchStep("anneal", 1.0, searching),),
)
"""A search by all engines: phase by phase the steps whose conditions hold at its beginning."""


def phases(only: str | None) -> tuple[tuple[SearchStep, ...], ...]:
    """The phases of a search by all engines, or by one alone and those it starts from."""
    if only is None:
        return PHASES
    chosen = engine(only)
    return tuple((SearchStep(name),) for name in (*chosen.after, chosen.name))
