"""From what the command line names to a proved Plan: a schedule is compiled, a plan file read and
proved. `Refused` is a `Rejected` that also carries the texts its diagnostics point into."""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterable
from math import isfinite
from pathlib import Path
from time import monotonic

from stretto.compiler.commands import files, screen
from stretto.compiler.commands.doubts import doubting, warn
from stretto.compiler.commands.flags import without_effect
from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label, Rejected
from stretto.compiler.diagnostics.printable import one_line
from stretto.compiler.diagnostics.source import Source, Span
from stretto.compiler.diagnostics.wording import joined
from stretto.compiler.order import WRITTEN
from stretto.compiler.order.budget import Budget, SearchProgress
from stretto.compiler.plan.plan import Plan
from stretto.compiler.show.summary import away_from, step_of


class Refused(Rejected):
    """The diagnostics, and the sources whose lines they show."""

    def __init__(self, diagnostics: Iterable[Diagnostic], sources: Iterable[Source]):
        super().__init__(diagnostics)
        self.sources = tuple(sources)


def load(
    name: str, chosen: Namespace, budget: Budget | None = None, *, forward_only: bool = False
) -> Plan:
    """The Plan of a schedule or plan file. Raises `Refused` and `Unusable`."""
    if files.is_plan(name):
        _refuse_flags(name, chosen)
        return from_plan(name)
    return from_schedule(files.schedule(name), chosen, budget or searching(chosen), forward_only)


def _refuse_flags(name: str, chosen: Namespace) -> None:
    """Refuse flags that can change nothing of a plan. Raises `Unusable` if any was given."""
    flags = without_effect(chosen)
    if flags:
        verb = "change" if len(flags) > 1 else "changes"
        raise files.Unusable(
            f"`{name}` is a plan: its sizes, costs and order are fixed, and {' and '.join(flags)} "
            f"{verb} nothing; compile the schedule anew instead"
        )


def from_plan(name: str) -> Plan:
    """A plan that was read is only well formed: it is proved, compared with its own text, and its
    bound worked out, before anything is said of it. Raises `Refused`."""
    from stretto.compiler.verify import verify

    sources: tuple[Source, ...] = ()
    try:
        plan = files.plan(name)
        sources = plan.sources
        plan = verify(plan)
    except Rejected as error:
        raise Refused(error.diagnostics, sources) from None
    return plan


def from_schedule(
    source: Source, chosen: Namespace, budget: Budget, forward_only: bool = False
) -> Plan:
    """Compiles. The plan knows its texts by their last names, so that it is the same wherever it
    is made; diagnostics show them by the path that was given. Raises `Refused`."""
    from stretto.compiler.driver import compile_text, renamed
    from stretto.compiler.evaluation import Settings
    from stretto.compiler.language.inline_costs import beside
    from stretto.compiler.language.parse import parse_costs

    file = files.schedule(chosen.costs, ships=False) if chosen.costs else None
    costs = beside(chosen.cost, "--cost", file)
    given = [source, *([costs] if costs else [])]
    paths = {one_line(Path(text.name).name): text.name for text in given}
    texts = [text._replace(name=one_line(text.name)) for text in given]
    if len(paths) == len(given):
        texts = [text._replace(name=one_line(Path(text.name).name)) for text in given]
    try:
        settings = Settings(
            values=dict(chosen.settings),
            costs=parse_costs(texts[1]) if texts[1:] else None,
            doubt=doubting(chosen, paths),
            **({} if chosen.max_ops is None else {"max_ops": chosen.max_ops}),
        )
        slots = getattr(chosen, "receive_slots", None)  # not every command has it
        plan = compile_text(
            texts[0].text,
            texts[0].name,
            settings,
            budget,
            forward_only=forward_only,
            receive_slots=slots,
            whole=getattr(chosen, "whole", False),
        )
        if slots:
            from stretto.compiler.program.slot_advice import raised

            if word := raised(plan.programs[step_of(plan)], slots):
                warning = Diagnostic("more-receive-slots", word, severity="warning")
                warn(chosen, warning, source.name)
        _slow(plan)
        return plan
    except Rejected as error:
        raise Refused(_table(source) or renamed(error.diagnostics, paths), given) from None
    finally:
        if isinstance(budget.progress, Teller):
            budget.progress.clear()


def _table(source: Source) -> list[Diagnostic]:
    """What is wrong where the text is another system's table."""
    from stretto.compiler.imports.meant import flags_of, systems_of

    systems = systems_of(source)
    if not systems:
        return []
    what = f"this is no schedule, but a table such as {joined(systems, 'or')} has"
    where = Label(Span(source.name, 1, 1, 1, 1))
    help = f"`check` and `import` read it with {flags_of(systems)}"
    return [Diagnostic("syntax", what, (where,), help=help)]


def _slow(plan: Plan) -> None:
    """A word where an order was searched for without the compiled loops."""
    if plan.engine == WRITTEN:
        return
    from stretto.compiler.order.kernels.jit import available

    if not available():
        files.say(
            "searched in plain Python; with the extra `solve` (pip install 'stretto[solve]') the "
            "same search is many times quicker, and small cases can be proved optimal"
        )


def searching(chosen: Namespace, seconds: float = 30.0) -> Budget:
    """The budget that the flags give, of so many seconds from the start of the command where they
    say nothing. On Ctrl-C all commands but `run`, which exits, go on with the best order so far."""
    teller, interrupts = Teller(), getattr(chosen, "interrupts", None)
    if chosen.command == "run":
        interrupts = None
    if chosen.time_limit is not None:
        seconds = float(chosen.time_limit)
    return Budget(
        seconds=seconds,
        until=getattr(chosen, "began", monotonic()) + seconds,
        effort=chosen.effort,
        seed=chosen.seed,
        gap=chosen.gap,
        engine=chosen.engine,
        cache=not chosen.no_cache,
        progress=teller,
        interrupted=_told(teller, interrupts.search_interrupted) if interrupts else None,
        ended=interrupts.search_ended if interrupts else None,
    )


def _told(teller: "Teller", say: Callable[[], None]) -> Callable[[], None]:
    """Clear the line of a terminal, then say it."""

    def tell() -> None:
        teller.clear()
        say()

    return tell


class Teller:
    """Tells how a search goes, on stderr, once it has lasted two seconds: on a terminal in one
    line that is written over, elsewhere in a line every ten seconds."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.next = monotonic() + 2
        self.written = False

    def __call__(self, now: SearchProgress) -> None:
        """Show the progress of the search, where it is due."""
        if not now.best:
            self.clear()
            files.say(now.engine)
            return
        if monotonic() < self.next:
            return
        self.next = monotonic() + (0.2 if self.terminal else 10)
        gap = away_from(now.best, now.bound)
        words = f"{now.engine}: {gap} from optimal so far"
        if isfinite(now.left):
            words += f", {now.left:.0f} s left"
        if self.terminal:
            self.line(words)
        else:
            print(words, file=sys.stderr)

    def line(self, words: str) -> None:
        """One line that is written over; only a terminal can show it."""
        if self.terminal:
            self.written = True
            words = words[: (screen.width(sys.stderr) or len(words) + 1) - 1]
            print(f"\r\x1b[K{words}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """The line of a terminal is of no use any more."""
        if self.written:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self.written = False
