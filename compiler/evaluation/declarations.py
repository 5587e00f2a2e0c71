"""The declarations of a file, from top to bottom: parameters and names get their values,
requirements are judged, pipelines get their numbers of stages and micro-batches. What depends on
all of the file (placement, costs, rules, orders) is compiled where it stands, with the names that
are known there, and evaluated later.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any, assert_never

from stretto.compiler.diagnostics.diagnostic import Label
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.diagnostics.suggest import nearest
from stretto.compiler.evaluation.declared import Declarations, Deferred
from stretto.compiler.evaluation.expressions.compile import compile_expression
from stretto.compiler.evaluation.expressions.names import (
    definitions,
    local_names,
    names_in,
    text_of,
)
from stretto.compiler.evaluation.expressions.scope import Constant, ErrorBinding, Scope
from stretto.compiler.evaluation.expressions.values import (
    PipelineValue,
    describe,
    exact,
    is_number,
    positive_count,
    show,
)
from stretto.compiler.evaluation.pipelines import declare_pipeline
from stretto.compiler.evaluation.reports import EvalError, Reports, diagnosis
from stretto.compiler.evaluation.settings import Settings
from stretto.compiler.language import syntax as s

MOST_RANKS = 65_536


def declare(schedule: s.Schedule, settings: Settings, reports: Reports) -> Declarations:
    """Everything that the statements declare; mistakes go to the reports."""
    return _Declarations(schedule, settings, reports).run()


class _Declarations:
    def __init__(self, schedule: s.Schedule, settings: Settings, reports: Reports):
        self.schedule = schedule
        self.settings = settings
        self.reports = reports
        self.scope = Scope(reports)
        self.scope.defined_later = definitions(schedule)
        self.scope.local_names = local_names(schedule)
        self.out = Declarations()
        self.unset = dict(settings.values)

    def run(self) -> Declarations:
        statements = self.schedule.statements
        for i, statement in enumerate(statements):
            self.statement(statement, first=i == 0)
        self.scope.defined_later = {}
        if self.settings.costs is not None:
            self.cost_file(self.settings.costs)
        self.complete()
        return self.out

    def statement(self, statement: s.Statement, first: bool) -> None:
        match statement:
            case s.Titled(name):
                self.titled(statement, name, first)
            case s.Ranks(value):
                if self.once("ranks", statement.span):
                    word = s.Word("ranks", statement.span)
                    self.out.ranks = self.size(word, value, MOST_RANKS, "ranks")
            case s.Microbatches(value):
                if self.once("microbatches", statement.span):
                    word = s.Word("microbatches", statement.span)
                    most = self.settings.max_ops
                    self.out.microbatches = self.size(word, value, most, "micro-batches")
            case s.Param(name, value):
                self.parameter(name, value)
            case s.Let(name, value):
                self.define(name, self.compute(value), value.span)
            case s.Require():
                self.require(statement)
            case s.Pipeline():
                self.pipeline(statement)
            case s.SplitBackward():
                if self.once("split B", statement.span):
                    self.out.split = statement
            case s.SplitForward():
                self.split_forward(statement)
            case s.SplitMicrobatch(slices):
                if self.once("split microbatch", statement.span):
                    self.slices(slices)
            case s.Overlap(kind_):
                if self.once(f"overlap F | {kind_}", statement.span):
                    self.out.overlap[kind_] = statement.span
            case s.Cost() | s.Activation() | s.Kept():
                self.out.costs.append(Deferred(statement, self.scope.snapshot()))
            case s.Transfer():
                if self.once("transfer", statement.span):
                    self.out.transfer = Deferred(statement, self.scope.snapshot())
            case s.Limit():
                self.out.limits.append(Deferred(statement, self.scope.snapshot()))
            case s.Minimize(_, jitter):
                if self.once("minimize", statement.span):
                    self.out.minimize = statement
                    if jitter is not None:
                        self.jitter(jitter)
            case s.Rule():
                self.out.rules.append(Deferred(statement, self.scope.snapshot()))
            case s.OrderRank():
                if self.once("order rank", statement.span):
                    self.out.order = Deferred(statement, self.scope.snapshot())
            case s.OrderAuto():
                if self.once("order auto", statement.span):
                    self.out.order_auto = statement
            case _:
                assert_never(statement)

    # ---- Names and their values

    def titled(self, statement: s.Titled, name: s.Word, first: bool) -> None:
        if not self.once("schedule", statement.span):
            return
        self.out.name = name.text
        if not first:
            self.reports.add(
                diagnosis("misplaced", "`schedule` must be the first statement", statement.span)
            )

    def parameter(self, name: s.Word, value: s.Expression) -> None:
        found = self.setting(name, value)
        if found is not None and not is_number(found):
            message = f"a parameter is a number, and `{name.text}` would be {describe(found)}"
            self.reports.add(
                diagnosis("wrong-kind", message, value.span, help="name other values with `let`")
            )
            found = None
        if found is not None:
            self.out.parameters[name.text] = str(found)
        self.define(name, found, name.span)

    def size(self, word: s.Word, value: s.Expression, most: int, what: str) -> int | None:
        """The value of `ranks` or `microbatches`: a whole number from 1 on."""
        found = self.setting(word, value)
        notes = (
            (f"`{word.text}` was set to {show(found)}",) if word.text in self.out.overridden else ()
        )
        size: int | None = self.attempt(
            lambda: positive_count(found, value.span, what, most, notes)
        )
        if size is not None:
            self.out.parameters[word.text] = str(size)
        self.scope.define(
            word, ErrorBinding(word.span) if size is None else Constant(size, word.span)
        )
        return size

    def setting(self, name: s.Word, value: s.Expression) -> Any:
        """What the settings say, else what the file says."""
        given = self.unset.pop(name.text, None)
        if given is None:
            return self.compute(value)
        self.out.overridden.add(name.text)
        compile_expression(value, self.scope)  # a mistake in the default is one nevertheless
        return exact(Fraction(given))

    def define(self, name: s.Word, value: Any, span: Span) -> None:
        self.scope.define(
            name, ErrorBinding(name.span) if value is None else Constant(value, name.span)
        )

    def compute(self, e: s.Expression) -> Any:
        """The expression's value, or None where it has none, which is then reported."""
        code = compile_expression(e, self.scope)
        return self.attempt(lambda: code([]))

    def attempt(self, action: Callable[[], Any]) -> Any:
        return self.reports.attempt(action)

    def once(self, what: str, span: Span) -> bool:
        """Whether this is the first statement that says it; another is reported."""
        before = self.out.stated_at.setdefault(what, span)
        if before is span:
            return True
        self.reports.add(
            diagnosis(
                "stated-twice",
                f"`{what}` stands twice",
                Label(span),
                Label(before, "here it was said already"),
                help="leave one of them out",
            )
        )
        return False

    # ---- Single statements

    def require(self, statement: s.Require) -> None:
        condition = statement.condition
        code = compile_expression(condition, self.scope)
        holds = self.attempt(lambda: _judge(code([]), condition.span))
        if holds is not False:
            return
        text = " ".join(text_of(self.schedule.source, condition.span).split())
        values = self.values_in(condition)
        message = f"`{text}` does not hold" + (f" for {', '.join(values)}" if values else "")
        if statement.why:
            message += f": {statement.why}"
        self.out.failed_requirements.append(diagnosis("requirement", message, condition.span))

    def values_in(self, e: s.Expression) -> list[str]:
        """`ranks = 3` for every name in an expression, in the order of the text."""
        found: dict[str, str] = {}
        for name in names_in(e):
            binding = self.scope.find(name)
            if isinstance(binding, Constant):
                if type(binding.value) is PipelineValue:
                    found[f"{name}.stages"] = show(binding.value.stages)
                    found[f"{name}.microbatches"] = show(binding.value.microbatches)
                else:
                    found[name] = show(binding.value)
        return [f"{name} = {value}" for name, value in found.items()]

    def pipeline(self, statement: s.Pipeline) -> None:
        new = declare_pipeline(
            statement, self.out.pipelines, self.scope.snapshot(), self.out, self.settings
        )
        self.out.pipelines.append(new)
        self.scope.define(statement.name, Constant(new.value, statement.name.span))

    def split_forward(self, statement: s.SplitForward) -> None:
        if not self.once("split F", statement.span):
            return
        for part in statement.parts:
            if part.stream is not None and part.stream.text not in ("compute", "comm"):
                self.reports.add(
                    diagnosis(
                        "unknown-name",
                        f"there is no stream `{part.stream.text}`",
                        part.stream.span,
                        help="a part runs `on compute` or `on comm`",
                    )
                )
        self.reports.add(
            diagnosis(
                "not-yet",
                "stages that are cut into parts cannot be compiled yet",
                statement.span,
                help="leave `split F into …` out: a forward is then one operation",
            )
        )

    def slices(self, e: s.Expression) -> None:
        found = self.compute(e)
        most = self.settings.max_ops
        self.out.slices = self.attempt(lambda: positive_count(found, e.span, "slices", most))

    def jitter(self, e: s.Expression) -> None:
        found = self.compute(e)
        if found is None:
            return
        if not is_number(found) or not 0 <= found <= 1:
            message = f"jitter is a fraction from 0 to 1, and this is {describe(found)}"
            self.reports.add_for_values(diagnosis("out-of-range", message, e.span))
            return
        self.out.jitter = Fraction(found)

    def cost_file(self, costs: s.CostFile) -> None:
        transfer: s.Transfer | None = None
        for statement in costs.statements:
            if not isinstance(statement, s.Transfer):
                self.out.costs.append(Deferred(statement, self.scope.snapshot()))
            elif transfer is None:
                transfer = statement
                self.out.transfer = Deferred(statement, self.scope.snapshot())
            else:
                self.out.stated_at["transfer"] = transfer.span
                self.once("transfer", statement.span)

    # ---- What is missing

    def complete(self) -> None:
        top = Span(self.schedule.source.name, 1, 1, 1, 1)
        if not self.schedule.statements:
            help_ = "`stretto new NAME` writes a file to begin with"
            self.reports.add(diagnosis("missing", "the file says nothing", top, help=help_))
            return
        title = self.out.stated_at.get("schedule", top)
        if "schedule" not in self.out.stated_at:
            self.reports.add(
                diagnosis(
                    "missing",
                    "a schedule file begins with its name",
                    top,
                    help="schedule NAME",
                )
            )
        for what in ("ranks", "microbatches"):
            if what not in self.out.stated_at:
                self.reports.add(
                    diagnosis("missing", f"`{what}` is missing", title, help=f"{what} 8")
                )
        if not self.out.pipelines:
            self.reports.add(
                diagnosis("missing", "there is no pipeline", title, help="pipeline main { }")
            )
        for name in self.unset:
            self.unknown_setting(name)

    def unknown_setting(self, name: str) -> None:
        known = [n for n in self.out.stated_at if n in ("ranks", "microbatches")]
        known += [x.name.text for x in self.schedule.statements if isinstance(x, s.Param)]
        near = nearest(name, known)
        listed = ", ".join(f"`{n}`" for n in known)
        self.reports.add(
            diagnosis(
                "unknown-name",
                f"the schedule has no parameter `{name}` to be set",
                help=f"did you mean `{near}`?" if near else f"it has {listed}",
            )
        )


def _judge(value: Any, span: Span) -> bool:
    if type(value) is bool:
        return value
    raise EvalError(
        diagnosis(
            "wrong-kind", f"a requirement is true or false, and this is {describe(value)}", span
        )
    )
