"""The mistakes that are found while a schedule is evaluated, collected and counted.

Mistakes that stand in the text are `add`ed once. Those that happen while something runs (a loop,
the order of a rank) are raised as `EvalError`, caught where the statement is known, and recorded by
`add_repeated`, which keeps the first of each kind and place and counts the rest.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label, Rejected
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.diagnostics.wording import listed
from stretto.compiler.evaluation.settings import MOST_OPERATIONS
from stretto.compiler.language.syntax import Word

MOST_SHOWN = 100  # mistakes of one kind that are reported
MOST_ALIKE = 10  # mistakes of the same words that are told one by one; of more, one and a count
MOST_SUGGESTED = 20  # mistakes after which close names are no longer looked for
MOST_PER_RANK = 100  # mistakes after which a rank's order is given up


class EvalError(Exception):
    """A value cannot be computed or a step cannot be taken. `bindings` has the values that the
    loops around it had given their names (`k = 2`), where that is known."""

    def __init__(self, diagnostic: Diagnostic):
        self.diagnostic = diagnostic
        self.bindings: str | None = None
        super().__init__(diagnostic.message)


class TooManyRounds(EvalError):
    """Loops make more rounds than the settings allow; nothing else is tried."""


class SecondaryError(EvalError):
    """A step cannot be taken, maybe because an earlier one of the same rank could not be taken
    either: reported only where nothing went wrong before."""


class AlreadyReported(Exception):
    """A value cannot be computed for a reason that has been reported already."""


def eval_error(
    code: str,
    message: str,
    *labels: Span | Label,
    help: str | None = None,
    notes: Sequence[str] = (),
) -> EvalError:
    """An `EvalError` with these labels, the first being where to look."""
    return EvalError(diagnosis(code, message, *labels, help=help, notes=notes))


def diagnosis(
    code: str,
    message: str,
    *labels: Span | Label,
    help: str | None = None,
    notes: Sequence[str] = (),
) -> Diagnostic:
    """A Diagnostic whose labels may be bare spans, the first being where to look."""
    places = tuple(Label(x) if isinstance(x, Span) else x for x in labels)
    return Diagnostic(code, message, places, tuple(notes), help)


def backward_not_split(kind: str, span: Span) -> Diagnostic:
    """An `I` or `W` in a file whose backwards are not split."""
    message = f"there is no `{kind}`: backwards are not split"
    return diagnosis("no-such-operation", message, span, help="split B into I, W")


def no_part(kind: str, part: Word) -> Diagnostic:
    """A part of an operation in a file whose stages are whole."""
    message = f"`{kind}` has no part `{part.text}`: stages are not cut into parts"
    return diagnosis("no-such-operation", message, part.span, help=f"leave `.{part.text}` out")


WORK = 16
"""Steps that a file may take to be worked out, for each operation that it may have."""


class StepsLeft:
    """How many steps may still be taken: single expressions, and steps of orders, where a great
    many of them stand together. `nodes` and `charged` count, while expressions are compiled, those
    there are and those whose computing is counted."""

    def __init__(self, most: int):
        self.most = most
        self.left = most
        self.nodes = 0
        self.charged = 0

    def spend(self, steps: int, span: Span) -> None:
        """Raises `TooManyRounds` before the steps are taken, if they are too many."""
        if steps > self.left:
            message = f"this file takes more than {self.most:,} steps to work out"
            raise TooManyRounds(
                diagnosis("too-large", message, span, help="`--max-ops` allows more")
            )
        self.left -= steps


class Repeated:
    """A mistake that happened while something ran: its first occurrence, how often it happened, and
    on which ranks."""

    def __init__(self, diagnostic: Diagnostic, bindings: str, rank: int | None):
        self.diagnostic = diagnostic
        self.bindings = bindings
        self.rank = rank
        self.count = 0
        self.ranks: dict[int, None] = {}

    def summary(self) -> Diagnostic:
        """The first occurrence, with a note on where and how often the mistake happens again."""
        others = [rank for rank in self.ranks if rank != self.rank]
        more = self.count - 1
        known = self.rank is not None and f"rank {self.rank}" in self.diagnostic.message
        plain = not self.bindings or (known and "," not in self.bindings)
        where = "" if plain else f" for {self.bindings}"
        note = ""
        if more and more > len(others):
            first = f" first{where}, and" if where else ""
            note = f"this happens{first} {times_in_words(more)} more"
        elif where:
            note = f"this happens{where}"
        if others:
            verb = "does" if len(others) == 1 else "do"
            note += f"{'; ' if note else ''}{listed('rank', sorted(others), 4, 1)} {verb} the same"
        notes = (*self.diagnostic.notes, note) if note else self.diagnostic.notes
        return replace(self.diagnostic, notes=notes)


class Alike:
    """Mistakes of the same words at different places: the first, and how many."""

    def __init__(self, told: list[Diagnostic], count: int) -> None:
        self.told = told
        self.count = count


class Reports:
    """All mistakes found so far in a file, and in a file of costs that is read beside it."""

    def __init__(self, file: str = "", most_work: int = WORK * MOST_OPERATIONS) -> None:
        self._file = file
        self.work = StepsLeft(most_work)
        self._static: list[Diagnostic] = []
        self._values: list[Diagnostic] = []
        self._alike: dict[tuple[str, str], Alike] = {}
        self._only_counted = 0
        self._repeated: dict[tuple[str, Span | None], Repeated] = {}
        self._told: set[str] = set()
        self.parts: dict[str, Span] = {}  # the names of parts of stages, as far as read

    @property
    def suggests(self) -> bool:
        """Whether close names are still looked for: not after so many mistakes."""
        return len(self._static) < MOST_SUGGESTED

    def add(self, diagnostic: Diagnostic) -> None:
        """A mistake that stands in the text, whatever the parameters are. Raises `Rejected` when
        there are so many that more would not help."""
        if not self._is_told(diagnostic):
            return
        self._static.append(diagnostic)
        if len(self._static) >= MOST_SHOWN:
            self.reject()

    def add_for_values(self, diagnostic: Diagnostic) -> None:
        """A mistake that depends on the values of parameters: left out where a `require` fails,
        which explains it better."""
        if len(self._values) < MOST_SHOWN and self._is_told(diagnostic):
            self._values.append(diagnostic)

    def _is_told(self, diagnostic: Diagnostic) -> bool:
        """Whether it is kept, and not only counted: of a statement that stands a thousand times the
        first says all."""
        alike = self._alike.setdefault((diagnostic.code, diagnostic.message), Alike([], 0))
        alike.count += 1
        if alike.count <= MOST_ALIKE:
            alike.told.append(diagnostic)
            return True
        self._only_counted += 1
        return False

    def add_once(self, what: str, diagnostic: Diagnostic) -> None:
        """A mistake of the text that shows in many places (a name that nothing defines, a statement
        that is missing): reported where it shows first, for every `what` once."""
        if what not in self._told:
            self._told.add(what)
            self.add(diagnostic)

    def has_told(self, what: str) -> bool:
        """Whether `add_once` has reported this."""
        return what in self._told

    def add_repeated(
        self, diagnostic: Diagnostic, bindings: str = "", rank: int | None = None
    ) -> None:
        """A mistake that may happen many times while something runs: counted by code and place."""
        key = (diagnostic.code, diagnostic.labels[0].span if diagnostic.labels else None)
        repeated = self._repeated.get(key)
        if repeated is None:
            if len(self._repeated) >= MOST_SHOWN or not self._is_told(diagnostic):
                return
            repeated = self._repeated[key] = Repeated(diagnostic, bindings, rank)
        repeated.count += 1
        if rank is not None:
            repeated.ranks[rank] = None

    def attempt(self, action: Callable[[], Any]) -> Any:
        """The action's value, or None where it raised an `EvalError`, which is then reported."""
        try:
            return action()
        except EvalError as error:
            self.add_for_values(error.diagnostic)
        except AlreadyReported:
            pass
        return None

    @property
    def count(self) -> int:
        """How many different mistakes were found so far."""
        return len(self._static) + len(self._values) + len(self._repeated) + self._only_counted

    def reject(self, failed: Iterable[Diagnostic] = ()) -> None:
        """Raises `Rejected` if anything was found. Where requirements `failed`, mistakes that
        depend on the values of parameters are left out: they follow from that."""
        failed = list(failed)
        found = [*self._static, *failed[:MOST_SHOWN]]
        if (more := len(failed) - MOST_SHOWN) > 0:
            note = f"{more:,} more requirements do not hold"
            found[-1] = replace(found[-1], notes=(*found[-1].notes, note))
        if not failed:
            found += self._values
            found += [h.diagnostic for h in self._repeated.values()]
        summaries = {h.diagnostic: h.summary() for h in self._repeated.values()}
        told: list[Diagnostic] = []
        for one in dict.fromkeys(found):
            alike = self._alike.get((one.code, one.message))
            if alike is None or alike.count <= MOST_ALIKE:
                told.append(summaries.get(one, one))
            elif one == alike.told[0]:
                shown = summaries.get(one, one)
                note = f"{alike.count - 1:,} more like it"
                told.append(replace(shown, notes=(*shown.notes, note)))
        if told:
            raise Rejected(sorted(told, key=self._place))

    def _place(self, diagnostic: Diagnostic) -> tuple[bool, int, int]:
        """In the order of the text, what stands in other files behind it."""
        if not diagnostic.labels:
            return False, 0, 0
        file, line, column, *_ = diagnostic.labels[0].span
        return file != self._file, line, column


def times_in_words(count: int) -> str:
    """`once`, `twice`, `3 times`."""
    return "once" if count == 1 else "twice" if count == 2 else f"{count:,} times"
