"""The line, as code: from the text of a schedule to a proved Plan. `compile_text` reads nothing
and writes nothing; `compile_file` reads its file. Both raise `Rejected` with what is wrong.
"""

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace as changed
from errno import ENOENT
from fractions import Fraction
from os import PathLike, fspath
from pathlib import Path
from time import monotonic
from typing import NamedTuple
from warnings import warn

from msgspec.structs import replace

from stretto.compiler import library
from stretto.compiler.bounds.bound import EXHAUSTIVE, Bound, bound, whole_bound
from stretto.compiler.bounds.eval_bound import forwards_bound
from stretto.compiler.diagnostics.diagnostic import Diagnostic, Rejected
from stretto.compiler.diagnostics.printable import one_line
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.evaluation import Settings, evaluate
from stretto.compiler.evaluation.settings import MOST_OPERATIONS, SeldomMeant, assuming, ignored
from stretto.compiler.language.inline_costs import GivenCosts, beside, statements_of
from stretto.compiler.language.parse import parse, parse_costs
from stretto.compiler.order import WRITTEN
from stretto.compiler.order.arrange import arrange
from stretto.compiler.order.budget import Budget, SearchProgress
from stretto.compiler.order.engines.table import BY_NAME, NAMES
from stretto.compiler.plan.plan import Plan, assemble
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.problem import Problem
from stretto.compiler.problem.spec import Spec
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicated
from stretto.compiler.program.program import Claims, Program, ProgramName
from stretto.compiler.proof.prove import prove_all


def compile_text(
    text: str,
    name: str,
    settings: Settings | None = None,
    budget: Budget | None = None,
    *,
    forward_only: bool = False,
    receive_slots: int | None = None,
    whole: bool = False,
) -> Plan:
    """The Plan of the schedule `text`, which diagnostics call `name`: its training step and, unless
    they alone break a rule, its forwards, or with `forward_only` these alone. `receive_slots`, 1 or
    more, is advice to every rank; `advice.raised` tells where an order needed more. With `whole`
    stages that are cut into parts run whole, in the same order."""
    settings, budget = settings or Settings(), budget or Budget()
    source = Source(one_line(name), text)
    assumed: list[str] = []
    with without_collector():
        spec = evaluate(parse(source), changed(settings, doubt=assuming(assumed, settings.doubt)))
        sources = (source, settings.costs.source) if settings.costs else (source,)
        wanted = _Choices(forward_only, receive_slots, whole, settings.doubt)
        return replace(_plan(spec, budget, wanted, sources), assumed=tuple(assumed))


class _Choices(NamedTuple):
    """What is asked for beside the schedule; see `compile_text`."""

    forward_only: bool = False
    slots: int | None = None
    whole: bool = False
    doubt: Callable[[SeldomMeant], None] = ignored


def compile_spec(spec: Spec, budget: Budget | None = None) -> Plan:
    """The Plan of what is to be done, made otherwise than from a text of ours: a table of another
    system, say. It carries no text, so that its computations cite no line once it was written.
    Raises `Rejected`."""
    with without_collector():
        return _plan(spec, budget or Budget(), _Choices(), ())


def plan_of(program: Program) -> Plan:
    """The Plan of a `train` Program that was made elsewhere, proved as it stands. Raises
    `Rejected`."""
    with without_collector():
        prove_all({"train": program})
        claimed: dict[ProgramName, Claims] = {"train": claims(program)}
        spec = program.spec
        least = bound(expand(spec)) if spec.streams else whole_bound(spec)
        return assemble({"train": program}, claimed, least, WRITTEN)


class _MadePrograms(NamedTuple):
    """The Programs with what is claimed of each, why there is no evaluation where there is none,
    and what is still asked of the order that they are made of: who found it, what bounds are known.
    `problem`: that of stages in parts, whose bound asks for it. (That of whole stages asks for the
    Spec alone; so their Problem, as large as the Programs, is let go of before these are
    proved.)"""

    programs: dict[ProgramName, Program]
    claims: dict[ProgramName, Claims]
    engine: str
    proven: int
    bound: Bound | None
    spec: Spec
    problem: Problem | None
    no_evaluation: Diagnostic | None


def _plan(spec: Spec, budget: Budget, wanted: _Choices, sources: tuple[Source, ...]) -> Plan:
    """From what is to be done to the Plan."""
    made = _made(spec, budget, wanted)
    prove_all(made.programs, made.claims)
    why = made.no_evaluation
    if why and why.labels:
        words = f"there is no evaluation: {why.message}"
        wanted.doubt(SeldomMeant("no-evaluation", words, why.labels[0].span))
    least = _least(made, wanted)
    return assemble(
        made.programs, made.claims, least, made.engine, sources, why.message if why else ""
    )


def _made(spec: Spec, budget: Budget, wanted: _Choices) -> _MadePrograms:
    """Its Programs, not proved yet."""
    problem = expand(spec)
    order = arrange(problem, _leaving_time(budget, problem))
    if spec.parts and wanted.whole:
        from stretto.compiler.program.whole import whole_order

        order = whole_order(order)
        problem = order.problem
    names: tuple[ProgramName, ...] = ("eval",) if wanted.forward_only else ("train", "eval")
    made = communicated(order, names, wanted.slots)
    return _MadePrograms(
        programs={name: one.program for name, one in made.programs.items()},
        claims={name: claims(*one) for name, one in made.programs.items()},
        engine=order.engine,
        proven=order.proven,
        bound=order.bound,
        spec=problem.spec,
        problem=problem if problem.spec.streams else None,
        no_evaluation=made.no_evaluation,
    )


def _least(made: _MadePrograms, wanted: _Choices) -> Bound:
    """The bound, or what the search itself proved by looking at every order, if that is more."""
    if wanted.forward_only:
        return forwards_bound(made.spec)
    least = made.bound or (bound(made.problem) if made.problem else whole_bound(made.spec))
    return least if made.proven <= least.ticks else Bound(made.proven, EXHAUSTIVE)


AFTER, AT_LEAST = 6e-5, 0.15
"""Seconds of one core, for each operation and at least, from an order that was found to a plan that
is written, about: the search ends so much earlier."""


def _leaving_time(budget: Budget, problem: Problem) -> Budget:
    """The budget of the search, where the given one is of all: what is left then takes as long as
    this process gets to run, of which the time so far tells something."""
    if budget.effort is not None:
        return budget
    end, now = budget.deadline(), budget.clock()
    rest = AT_LEAST + AFTER * len(problem.operations)
    if budget.after is not None:
        rest += budget.after(problem)
    rest *= budget.slower()
    return changed(budget, until=end - min(rest, (end - now) / 2))


@contextmanager
def without_collector() -> Iterator[None]:
    """A compiled schedule is millions of objects and no circle of them: the garbage collector
    walks them all, finds nothing, and takes a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def compile_file(
    path: str | PathLike[str],
    *,
    parameters: Mapping[str, int | str | Fraction] | None = None,
    costs: str | PathLike[str] | GivenCosts | None = None,
    time_limit: float = 30.0,
    effort: int | None = None,
    seed: int = 0,
    gap: float | str | Fraction | None = None,
    engine: str | None = None,
    progress: Callable[[SearchProgress], None] | None = None,
    cache: bool = False,
    forward_only: bool = False,
    whole: bool = False,
    max_ops: int = MOST_OPERATIONS,
    **more: int | str | Fraction,
) -> Plan:
    """The Plan of a schedule file, or of the library's schedule of this name. The keywords are the
    flags of `stretto compile`: all others are parameters of the schedule, set as by `--set`, as in
    `compile_file("dualpipe", ranks=4, microbatches=8, time_limit=10)`; `parameters` has those that
    are called like a keyword here. A text is an exact number (`"9/8"`). `costs` is the path of a
    file, or what operations cost, as in `costs={"F": 10, "B[0]": 20.5}`; `time_limit` is in seconds
    of a search, where an order has to be found; `progress` is told how it goes. Raises `Rejected`,
    `OSError`, `ValueError` for a text that is no number, and `LookupError` for an engine that is
    none. Warns of what is seldom meant."""
    began = monotonic()
    values = {name: _number(name, value) for name, value in {**(parameters or {}), **more}.items()}
    if engine is not None and engine not in BY_NAME:
        raise LookupError(f"there is no engine `{engine}`: one of {', '.join(NAMES)}")
    source, where = _read(path)
    paths = {source.name: where}
    statements = None
    doubts: list[SeldomMeant] = []
    try:
        if (given := _costs(costs)) is not None:
            text, paths[text.name] = given
            statements = parse_costs(text)
        budget = Budget(
            seconds=time_limit,
            until=began + time_limit,
            effort=effort,
            seed=seed,
            gap=None if gap is None else Fraction(gap),
            engine=engine and BY_NAME[engine].name,
            cache=cache,
            progress=progress,
        )
        return compile_text(
            source.text,
            source.name,
            Settings(values, statements, max_ops, doubts.append),
            budget,
            forward_only=forward_only,
            whole=whole,
        )
    except Rejected as error:
        raise Rejected(renamed(error.diagnostics, paths)) from None
    finally:
        for _, words, at in doubts:
            warn(f"{paths.get(at.file, at.file)}:{at.line}: {words}", stacklevel=2)


def _number(name: str, value: int | str | Fraction) -> Fraction:
    """The value of a parameter. Raises `ValueError` where it is no number."""
    try:
        return Fraction(value)
    except (ValueError, TypeError, ArithmeticError):
        raise ValueError(f"`{name}` is no exact number: {value!r}; write 8, 1.5 or 9/8") from None


def _read(path: str | PathLike[str]) -> tuple[Source, str]:
    """The text of a file or of a schedule that ships, under the name that a plan knows it by, and
    where it is."""
    where = fspath(path)
    if not Path(where).is_file() and library.has(where):
        source = library.read(where)
        return source, source.name
    if not Path(where).exists() and where == Path(where).name and not Path(where).suffix:
        raise FileNotFoundError(ENOENT, library.unknown(where, library.meant(where)), where)
    return Source(one_line(Path(where).name), Path(where).read_text("utf-8-sig")), where


def _costs(costs: str | PathLike[str] | GivenCosts | None) -> tuple[Source, str] | None:
    """The text of a file of costs, or what says the same as these, and where it is."""
    if costs is None:
        return None
    if not isinstance(costs, Mapping):
        return _read(costs)
    text = beside(statements_of(costs), "costs", None)
    return (text, text.name) if text else None


def renamed(diagnostics: Iterable[Diagnostic], names: Mapping[str, str]) -> tuple[Diagnostic, ...]:
    """The diagnostics with other names for their files. A plan knows its texts by their last name,
    so that it is the same wherever it was compiled; whoever mends a file wants its path."""
    return tuple(
        changed(
            diagnostic,
            labels=tuple(
                label._replace(span=label.span._replace(file=names[label.span.file]))
                if label.span.file in names
                else label
                for label in diagnostic.labels
            ),
        )
        for diagnostic in diagnostics
    )
