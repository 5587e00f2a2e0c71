"""Pipelines as they are declared: their numbers of stages and micro-batches, which other statements
may read. Where their stages stand is evaluated by `placement`, when all of the file is known."""

from stretto.compiler.diagnostics.diagnostic import Label
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.declared import CompiledPlace, Declarations, PipelineDecl
from stretto.compiler.evaluation.expressions.compile import compile_expression, compile_whole
from stretto.compiler.evaluation.expressions.scope import Scope, report_wrong_kind
from stretto.compiler.evaluation.expressions.values import PipelineValue, positive_count
from stretto.compiler.evaluation.reports import Reports, diagnosis
from stretto.compiler.evaluation.settings import Settings
from stretto.compiler.language import syntax as s


def declare_pipeline(
    statement: s.Pipeline, scope: Scope, declared: Declarations, settings: Settings
) -> PipelineDecl:
    """The pipeline that a statement declares, below those that are declared already. Mistakes go to
    the scope's reports; where one leaves a number unknown, it is None."""
    reports, before = scope.reports, declared.pipelines
    new = PipelineDecl(PipelineValue(len(before), statement.name.text, None, None), statement)
    found: dict[str, int | None] = {}
    for property_ in statement.properties:
        what = _WORDS[type(property_)]
        if what != "feeds":
            first = new.stated_at.setdefault(what, property_.span)
            if first is not property_.span:
                _twice(reports, what, property_.span, first)
                continue
        match property_:
            case s.Stages(value) | s.Microbatches(value):
                found[what] = _count(value, scope, what, settings.max_ops)
            case s.Place():
                new.place = _compile_place(property_, scope)
            case s.Replicates(original):
                new.original = _original(original, declared, scope)
                found.setdefault("copied", None)
            case s.ModelName():
                new.model = property_
            case s.Feeds(_, stage):
                new.feeds.append((property_, compile_expression(stage, scope)))
            case s.ForwardOnly():
                new.forward_only = True
    stages = found["stages"] if "stages" in found else _default_stages(new, declared, scope)
    if "microbatches" in found:
        microbatches = found["microbatches"]
    else:
        microbatches = _default("microbatches", new, declared, scope)
    new.value = PipelineValue(new.value.index, new.value.name, stages, microbatches)
    return new


_WORDS: dict[type, str] = {
    s.Stages: "stages",
    s.Microbatches: "microbatches",
    s.Place: "place",
    s.Replicates: "replicates",
    s.ModelName: "model",
    s.Feeds: "feeds",
    s.ForwardOnly: "forward only",
}


def _twice(reports: Reports, what: str, span: Span, first: Span) -> None:
    reports.add(
        diagnosis(
            "stated-twice",
            f"`{what}` stands twice in this pipeline",
            Label(span),
            Label(first, "here it was said already"),
            help="leave one of them out",
        )
    )


def _count(e: s.Expression, scope: Scope, what: str, most: int) -> int | None:
    code = compile_expression(e, scope)
    name = "micro-batches" if what == "microbatches" else what

    found: int | None = scope.reports.attempt(lambda: positive_count(code([]), e.span, name, most))
    return found


def _default_stages(new: PipelineDecl, declared: Declarations, scope: Scope) -> int | None:
    if "replicates" in new.stated_at:
        return new.original.value.stages if new.original else None
    return _default("ranks", new, declared, scope)


def _default(which: str, new: PipelineDecl, declared: Declarations, scope: Scope) -> int | None:
    """The file's `ranks` or `microbatches`, for a pipeline that does not say its own. Reports where
    it stands only further down."""
    if which not in declared.stated_at:
        if which in scope.defined_later:
            what = "stages" if which == "ranks" else "microbatches"
            scope.reports.add(
                diagnosis(
                    "unknown-name",
                    f"`{which}` is not known yet, and `{new.name.text}` does not say its `{what}`",
                    Label(new.name.span),
                    Label(scope.defined_later[which], "it is defined only here"),
                    help=f"move `{which}` above the pipeline",
                )
            )
        return None
    return declared.ranks if which == "ranks" else declared.microbatches


def _compile_place(statement: s.Place, scope: Scope) -> CompiledPlace:
    inside = scope.frame()
    stages = inside.define_word("stages", statement.span)
    stage = inside.define_slot(statement.stage, varies=True)
    code = compile_whole(statement.rank, inside, "a rank")
    rank = statement.rank
    plain = rank.text if isinstance(rank, s.Name) else None
    return CompiledPlace(code, inside.size, stages, stage, rank.span, statement.stage.text, plain)


def _original(word: s.Word, declared: Declarations, scope: Scope) -> PipelineDecl | None:
    other = declared.by_name.get(word.text)
    if other is not None:
        return other.original or other
    found = scope.find(word.text)
    if found is not None:
        report_wrong_kind(scope.reports, word, "a pipeline", found.span)
    else:
        scope.report_unknown(word, "no pipeline above has this name")
    return None
