"""Which names are known where, and what each stands for: a value that is computed already, or a
slot of the environment in which a compiled expression runs."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.diagnostics.suggest import nearest
from stretto.compiler.evaluation.reports import Reports, diagnosis
from stretto.compiler.language.syntax import Word

NO_VALUE = (
    "end the statement with `for {0} in a .. b`, or give `{0}` a value before it: `let {0} = …`"
)
"""What to do about a name without a value in a statement that may bind some."""


class Constant(NamedTuple):
    """A name whose value is known when expressions that use it are compiled."""

    value: Any
    span: Span


class Slot(NamedTuple):
    """A name whose value stands in the environment; `varies` where a loop gives it one value after
    another."""

    slot: int
    span: Span
    varies: bool = False


class QueueSlot(NamedTuple):
    """The name of a queue of an order block, which stands in the environment."""

    slot: int
    span: Span


class ErrorBinding(NamedTuple):
    """A name whose value could not be computed; that was reported where it stands."""

    span: Span


Binding = Constant | Slot | QueueSlot | ErrorBinding

VALUES_ELSEWHERE = {
    **dict.fromkeys(("true", "false"), "write a comparison, such as `1 == 1`"),
    **dict.fromkeys(
        ("nan", "inf", "infinity"), "write a number, such as 18.5: what was not measured has none"
    ),
}
"""Words that are values in other languages, to what to write here."""


class Scope:
    """The names of a block, and of all blocks around it."""

    def __init__(self, reports: Reports, outer: "Scope | None" = None):
        self.reports = reports
        self.outer = outer
        self.names: dict[str, Binding] = {}
        self.defined_later: dict[str, Span] = outer.defined_later if outer else {}
        self.local_names: dict[str, tuple[Span, str]] = outer.local_names if outer else {}
        self.binding_hint: str | None = outer.binding_hint if outer else None
        """What to write in the statement so that a name has values, `{}` being the name."""
        self._slots: list[int] = outer._slots if outer else [0]
        self._visible: int | None = None  # how many of the names, in the order of definition
        self._ordinals: dict[str, int] = {}  # definition index

    def inner(self) -> "Scope":
        """A scope for a block inside this one."""
        return Scope(self.reports, self)

    def snapshot(self) -> "Scope":
        """This scope as it is now: names that are defined later are not seen in it."""
        scope = Scope(self.reports)
        scope.names, scope.defined_later, scope._ordinals = (
            self.names,
            self.defined_later,
            self._ordinals,
        )
        scope.local_names = self.local_names
        scope._visible = len(self.names)
        return scope

    def frame(self) -> "Scope":
        """An inner scope that has an environment of its own."""
        scope = Scope(self.reports, self)
        scope._slots = [0]
        return scope

    @property
    def size(self) -> int:
        """How many slots the environment of this frame has."""
        return self._slots[0]

    def reserve(self) -> int:
        """A new slot of the environment, without a name."""
        self._slots[0] += 1
        return self._slots[0] - 1

    def find(self, name: str) -> Binding | None:
        """What the name stands for here; None where it is not defined."""
        scope: Scope | None = self
        while scope is not None:
            binding = scope.names.get(name)
            if binding is not None and scope._sees(name):
                return binding
            scope = scope.outer
        return None

    def _sees(self, name: str) -> bool:
        return self._visible is None or self._ordinals[name] < self._visible

    def define(self, word: Word, binding: Binding) -> None:
        """Makes the name known from here on; defining a known name again is reported."""
        known = self.find(word.text)
        if known is None:
            self._ordinals[word.text] = len(self.names)
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

    def define_slot(self, word: Word, varies: bool = False) -> int:
        """Defines the name as that of a new slot, and returns the slot."""
        index = self.reserve()
        self.define(word, Slot(index, word.span, varies))
        return index

    def define_word(self, text: str, span: Span) -> int:
        """As `define_slot`, for a word of the language that has a value here (`stages`, `F`)."""
        index = self.reserve()
        self.names[text] = Slot(index, span)
        return index

    def varying(self) -> Iterator[tuple[str, int]]:
        """The names whose values loops (or the rank) give, outermost first, with their slots."""
        chain: list[Scope] = [self]
        while chain[-1].outer is not None:
            chain.append(chain[-1].outer)
        for scope in reversed(chain):
            for name, binding in scope.names.items():
                if isinstance(binding, Slot) and binding.varies:
                    yield name, binding.slot

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
            return  # `_complete` reports the missing statement
        if self.reports.has_told(name):
            return  # before close names are looked for
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
        if help_ := VALUES_ELSEWHERE.get(word.text.lower()):
            return diagnosis("unknown-name", message, Label(word.span), help=help_)
        if word.text in self.reports.parts:
            return _part_alone(word, self.reports.parts[word.text])
        seeks = word.text not in self.local_names and self.reports.suggests
        known = self.all_names() if seeks else {}
        near = nearest(word.text, known)
        if near is None:
            labels = [Label(word.span, what)]
            if word.text in self.local_names:
                span, where = self.local_names[word.text]
                labels.append(Label(span, f"`{word.text}` is known only in this `{where}`"))
            binds = self.binding_hint and self.binding_hint.format(word.text)
            return diagnosis("unknown-name", message, *labels, help=binds)
        return diagnosis(
            "unknown-name",
            message,
            Label(word.span, what),
            Label(known[near].span, "a close name is defined here"),
            help=f"did you mean `{near}`?",
        )


def _part_alone(word: Word, part: Span) -> Diagnostic:
    """The name of a part, without its operation."""
    return diagnosis(
        "unknown-name",
        f"`{word.text}` is a part, and stands behind its operation",
        Label(word.span),
        Label(part, "the part"),
        help=f"F.{word.text}",
    )


def report_wrong_kind(
    reports: Reports, word: Word, wanted: str, defined: Span, help: str | None = None
) -> None:
    """Reports a name that stands for something else than `wanted`, such as "a pipeline"."""
    found = diagnosis(
        "wrong-kind",
        f"`{word.text}` is not {wanted}",
        Label(word.span),
        Label(defined, "it is defined here"),
        help=help,
    )
    reports.add(found)
