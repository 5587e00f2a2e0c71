"""Which names are known where, and what each stands for: a value that is computed already, or a
place among the values that a running order block has at hand."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.diagnostics.suggest import nearest
from stretto.compiler.evaluation.reports import Reports, diagnosis
from stretto.compiler.language.syntax import Word


class Constant(NamedTuple):
    value: Any
    span: Span


class Slot(NamedTuple):
    """A place in the values at hand; `varies` where a loop gives it one value after another."""

    place: int
    span: Span
    varies: bool = False


class QueueSlot(NamedTuple):
    place: int
    span: Span


class ErrorBinding(NamedTuple):
    """A name whose value could not be computed; that was reported where it stands."""

    span: Span


Binding = Constant | Slot | QueueSlot | ErrorBinding


class Scope:
    """The names of a block, and of all blocks around it."""

    def __init__(self, reports: Reports, outer: "Scope | None" = None):
        self.reports = reports
        self.outer = outer
        self.names: dict[str, Binding] = {}
        self.defined_later: dict[str, Span] = outer.defined_later if outer else {}
        self.local_names: dict[str, tuple[Span, str]] = outer.local_names if outer else {}
        self.binding_hint: str | None = outer.binding_hint if outer else None
        """How the statement could give a name its values, `{}` being the name."""
        self._slots: list[int] = outer._slots if outer else [0]
        self._until: int | None = None  # of the names, how many are seen here
        self._place: dict[str, int] = {}  # the how manieth name this is

    def inner(self) -> "Scope":
        return Scope(self.reports, self)

    def snapshot(self) -> "Scope":
        """This scope as it is now: names that are defined later are not seen in it."""
        scope = Scope(self.reports)
        scope.names, scope.defined_later, scope._place = self.names, self.defined_later, self._place
        scope.local_names = self.local_names
        scope._until = len(self.names)
        return scope

    def frame(self) -> "Scope":
        """An inner scope whose values at hand are its own."""
        scope = Scope(self.reports, self)
        scope._slots = [0]
        return scope

    @property
    def size(self) -> int:
        """How many values are at hand in this frame."""
        return self._slots[0]

    def reserve(self) -> int:
        """A place among the values at hand that has no name."""
        self._slots[0] += 1
        return self._slots[0] - 1

    def find(self, name: str) -> Binding | None:
        scope: Scope | None = self
        while scope is not None:
            binding = scope.names.get(name)
            if binding is not None and scope._sees(name):
                return binding
            scope = scope.outer
        return None

    def _sees(self, name: str) -> bool:
        return self._until is None or self._place[name] < self._until

    def define(self, word: Word, binding: Binding) -> None:
        """Makes the name known from here on; a name that is known cannot be defined again."""
        known = self.find(word.text)
        if known is None:
            self._place[word.text] = len(self.names)
            self.names[word.text] = binding
            return
        self.reports.add(
            diagnosis(
                "name-taken",
                f"`{word.text}` is defined already",
                Label(word.span),
                Label(known.span, "it is defined here, and known until its block ends"),
                help="choose another name",
            )
        )

    def slot(self, word: Word, varies: bool = False) -> int:
        """Defines the name as a new place among the values at hand."""
        index = self.reserve()
        self.define(word, Slot(index, word.span, varies))
        return index

    def bind(self, text: str, span: Span) -> int:
        """Gives a word of the language (`stages`, `F`) a value in this scope."""
        index = self.reserve()
        self.names[text] = Slot(index, span)
        return index

    def varying(self) -> Iterator[tuple[str, int]]:
        """Names that loops (and the rank) give their values, from the outermost, with places."""
        chain = [self]
        while chain[-1].outer is not None:
            chain.append(chain[-1].outer)
        for scope in reversed(chain):
            for name, binding in scope.names.items():
                if isinstance(binding, Slot) and binding.varies:
                    yield name, binding.place

    def all_names(self) -> dict[str, Binding]:
        """Every name known here."""
        names = self.outer.all_names() if self.outer else {}
        names.update({n: b for n, b in self.names.items() if self._sees(n)})
        return names

    def report_unknown(
        self, word: Word, what: str = "no parameter, `let` or loop has this name"
    ) -> None:
        """Reports a name that nothing defines."""
        name = word.text
        if name in ("ranks", "microbatches") and name not in self.defined_later:
            return  # that the statement is missing is said once, elsewhere
        if name in self.defined_later:
            found = diagnosis(
                "unknown-name",
                f"`{name}` is not known yet",
                Label(word.span),
                Label(self.defined_later[name], "it is defined only here"),
                help="move its definition above",
            )
        else:
            found = self._undefined(word, what)
        self.reports.add_once(name, found)

    def _undefined(self, word: Word, what: str) -> Diagnostic:
        message = f"`{word.text}` is not defined"
        if word.text in ("true", "false"):
            help_ = "write a comparison, such as `1 == 1`"
            return diagnosis("unknown-name", message, Label(word.span), help=help_)
        known = self.all_names()
        near = None if word.text in self.local_names else nearest(word.text, known)
        if near is None:
            labels = [Label(word.span, what)]
            if word.text in self.local_names:
                span, where = self.local_names[word.text]
                labels.append(Label(span, f"`{word.text}` is known only in this `{where}`"))
            binds = (
                self.binding_hint
                and f"end the statement with `{self.binding_hint.format(word.text)}`"
            )
            return diagnosis("unknown-name", message, *labels, help=binds)
        return diagnosis(
            "unknown-name",
            message,
            Label(word.span, what),
            Label(known[near].span, "a close name is defined here"),
            help=f"did you mean `{near}`?",
        )
