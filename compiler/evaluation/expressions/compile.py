"""Expressions, compiled once to closures: `compile_expression` checks the names and returns `Code`,
which computes the value from those of the environment. Numbers are exact; only the branch that is
needed is computed.
"""

import operator
from collections.abc import Callable
from math import ceil, floor
from typing import Any, assert_never

from stretto.compiler.diagnostics.diagnostic import Label
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.expressions.arithmetic import ARITHMETIC, COMPARE
from stretto.compiler.evaluation.expressions.scope import (
    Constant,
    ErrorBinding,
    QueueSlot,
    Scope,
    Slot,
)
from stretto.compiler.evaluation.expressions.values import (
    Code,
    Env,
    PipelineValue,
    computed,
    describe,
    is_number,
    number,
    truth,
    whole,
)
from stretto.compiler.evaluation.reports import AlreadyReported, diagnosis, eval_error
from stretto.compiler.language import syntax as s

LARGE = 32
"""Nodes of an expression above which its computing is counted."""


def compile_expression(e: s.Expression, scope: Scope) -> Code:
    """The expression as a closure. Unknown names are reported to the scope's reports; the code of
    an expression that has one raises `AlreadyReported`. Of a large one the computing is counted,
    and raises `TooManyRounds` where a file takes too long."""
    work = scope.reports.work
    nodes, charged = work.nodes, work.charged
    work.nodes += 1
    code = _compiled(e, scope)
    size = work.nodes - nodes - (work.charged - charged)
    if size <= LARGE:
        return code
    work.charged += size
    span = e.span

    def run(env: Env) -> Any:
        work.spend(size, span)
        return code(env)

    return run


def _compiled(e: s.Expression, scope: Scope) -> Code:
    match e:
        case s.Number(value):
            return lambda env: value
        case s.Name():
            return _name(e, scope)
        case s.Member():
            return _member(e, scope)
        case s.Call():
            return _call(e, scope)
        case s.List(items):
            codes = [compile_expression(item, scope) for item in items]
            return lambda env: tuple([code(env) for code in codes])
        case s.Subscript():
            return _subscript(e, scope)
        case s.Negative(of, span):
            code = compile_expression(of, scope)
            return lambda env: -number(code(env), span, "what `-` turns round")
        case s.Not(of):
            code = compile_expression(of, scope)
            return lambda env: not truth(code(env), of.span)
        case s.Chain():
            return _chain(e, scope)
        case s.Comparison():
            return _comparison(e, scope)
        case s.Both(operands):
            return _junction(operands, scope, stops_at=False)
        case s.Either(operands):
            return _junction(operands, scope, stops_at=True)
        case s.Conditional():
            return _conditional(e, scope)
        case _:
            assert_never(e)


def compile_whole(e: s.Expression, scope: Scope, what: str) -> Callable[[Env], int]:
    """As `compile_expression`, for a place that needs a whole number."""
    code, span = compile_expression(e, scope), e.span

    def run(env: Env) -> int:
        value = code(env)
        return value if type(value) is int else whole(value, span, what)

    return run


def already_reported(env: Env) -> Any:
    """The code of an expression with a reported mistake. Raises `AlreadyReported`."""
    raise AlreadyReported


# ---- Names


def _name(e: s.Name, scope: Scope) -> Code:
    found = scope.find(e.text)
    match found:
        case Constant(value):
            return lambda env: value
        case Slot(index):
            return operator.itemgetter(index)
        case ErrorBinding():
            return already_reported
        case QueueSlot():
            scope.reports.add(
                diagnosis(
                    "wrong-kind",
                    f"`{e.text}` is a queue, and not a value",
                    Label(e.span),
                    Label(found.span, "it is made here"),
                    help=f"take from it with `next {e.text}`; `len({e.text})` is its length",
                )
            )
            return already_reported
        case None:
            _unknown(e, scope)
            return already_reported
        case _:
            assert_never(found)


def _unknown(e: s.Name, scope: Scope) -> None:
    if e.text == "stages":
        scope.reports.add(
            diagnosis(
                "unknown-name",
                "`stages` alone is known only in `place` and inside the `[ ]` of costs",
                e.span,
                help="say whose: `main.stages`",
            )
        )
    elif e.text in ("F", "B", "I", "W"):
        scope.reports.add(
            diagnosis(
                "wrong-kind",
                f"`{e.text}` is an operation, and not a value",
                e.span,
                help="only the cost of a pair may use `F` and `B`, as in `cost F | B = max(F, B)`; "
                "elsewhere write its number, or a `param` that both use",
            )
        )
    else:
        scope.report_unknown(s.Word(e.text, e.span))


def _member(e: s.Member, scope: Scope) -> Code:
    of = compile_expression(s.Name(e.of.text, e.of.span), scope)
    which = e.member.text
    if which not in ("stages", "microbatches"):
        scope.reports.add(
            diagnosis(
                "unknown-name",
                f"a pipeline has no `{which}`",
                e.member.span,
                help="it has `stages` and `microbatches`",
            )
        )
        return already_reported

    def run(env: Env) -> Any:
        value = of(env)
        if type(value) is not PipelineValue:
            raise eval_error(
                "wrong-kind", f"`.{which}` needs a pipeline, not {describe(value)}", e.of.span
            )
        return computed(value.stages if which == "stages" else value.microbatches)

    return run


# ---- Arithmetic


def _chain(e: s.Chain, scope: Scope) -> Code:
    code, span = compile_expression(e.first, scope), e.first.span
    if len(e.rest) == 1:
        sign, right = e.rest[0]
        return _binary(sign, code, compile_expression(right, scope), span, right.span)
    steps = [(ARITHMETIC[sign], compile_expression(of, scope), of.span) for sign, of in e.rest]

    def run(env: Env) -> Any:
        value = code(env)
        for combine, right, place in steps:
            value = combine(value, right(env), span, place)
        return value

    return run


def _binary(sign: str, left: Code, right: Code, a: Span, b: Span) -> Code:
    combine = ARITHMETIC[sign]
    if sign in "+-":
        quick = operator.add if sign == "+" else operator.sub

        def run(env: Env) -> Any:
            x, y = left(env), right(env)
            if type(x) is int and type(y) is int:
                return quick(x, y)
            return combine(x, y, a, b)

        return run
    return lambda env: combine(left(env), right(env), a, b)


# ---- Conditions


def _comparison(e: s.Comparison, scope: Scope) -> Code:
    left, right = compile_expression(e.left, scope), compile_expression(e.right, scope)
    compare, sign = COMPARE[e.operator], e.operator

    def run(env: Env) -> bool:
        x, y = left(env), right(env)
        if (type(x) is int and type(y) is int) or (is_number(x) and is_number(y)):
            return compare(x, y)
        if type(x) is PipelineValue and type(y) is PipelineValue and sign in ("==", "!="):
            return compare(x, y)
        raise eval_error(
            "wrong-kind",
            f"`{sign}` cannot compare {describe(x)} with {describe(y)}",
            e.span,
            help="numbers compare with numbers; pipelines with pipelines, by `==` and `!=`",
        )

    return run


def _junction(operands: tuple[s.Expression, ...], scope: Scope, stops_at: bool) -> Code:
    codes = [(compile_expression(o, scope), o.span) for o in operands]

    def run(env: Env) -> bool:
        for code, span in codes:
            value = code(env)
            if (value if type(value) is bool else truth(value, span)) is stops_at:
                return stops_at
        return not stops_at

    return run


def _conditional(e: s.Conditional, scope: Scope) -> Code:
    cases = [
        (compile_expression(condition, scope), compile_expression(value, scope), condition.span)
        for condition, value in e.cases
    ]
    otherwise = compile_expression(e.otherwise, scope)

    def run(env: Env) -> Any:
        for condition, value, span in cases:
            holds = condition(env)
            if holds if type(holds) is bool else truth(holds, span):
                return value(env)
        return otherwise(env)

    return run


# ---- Lists and functions


def _subscript(e: s.Subscript, scope: Scope) -> Code:
    of = compile_expression(e.of, scope)
    indices = [(compile_whole(i, scope, "an index"), i.span) for i in e.indices]

    def run(env: Env) -> Any:
        value = of(env)
        for index, span in indices:
            if type(value) is not tuple:
                raise eval_error(
                    "wrong-kind", f"`[ ]` needs a list, not {describe(value)}", e.of.span
                )
            at = index(env)
            if not 0 <= at < len(value):
                size = f"{len(value)} items, from 0" if value else "no items"
                raise eval_error(
                    "out-of-range", f"there is no item {at}: this list has {size}", span
                )
            value = value[at]
        return value

    return run


def _call(e: s.Call, scope: Scope) -> Code:
    name, arguments = e.function.text, e.arguments
    if name == "len":
        length = _length(e, scope)
        if length is not None:
            return length
    codes = [compile_expression(a, scope) for a in arguments]
    spans = [a.span for a in arguments]
    if not arguments or (name not in ("min", "max") and len(arguments) != 1):
        needs = "values or a list" if name in ("min", "max") else "one value"
        scope.reports.add(diagnosis("wrong-kind", f"`{name}` needs {needs}", e.span))
        return already_reported
    if name in ("min", "max"):
        pick = min if name == "min" else max
        if len(codes) == 1:
            return lambda env: pick(_items(codes[0](env), spans[0], name))
        if len(codes) == 2:
            return _of_two(pick, name, codes, spans)
        return lambda env: pick(
            [number(code(env), span, f"what `{name}` compares")
             for code, span in zip(codes, spans, strict=True)]
        )  # fmt: skip
    code, span = codes[0], spans[0]
    if name == "len":
        return lambda env: len(_list(code(env), span))
    functions: dict[str, Callable[[Any], Any]] = {"abs": abs, "ceil": ceil, "floor": floor}
    apply = functions[name]
    return lambda env: apply(number(code(env), span, f"the value for `{name}`"))


def _of_two(
    pick: Callable[[Any, Any], Any], name: str, codes: list[Code], spans: list[Span]
) -> Code:
    left, right = codes

    def run(env: Env) -> Any:
        x, y = left(env), right(env)
        if type(x) is int and type(y) is int:
            return pick(x, y)
        what = f"what `{name}` compares"
        return pick(number(x, spans[0], what), number(y, spans[1], what))

    return run


def _items(value: Any, span: Span, name: str) -> list[Any]:
    if is_number(value):
        return [value]
    items = _list(value, span)
    if not items:
        raise eval_error("out-of-range", f"`{name}` of an empty list has no value", span)
    return [number(item, span, f"every item for `{name}`") for item in items]


def _list(value: Any, span: Span) -> tuple[Any, ...]:
    if type(value) is tuple:
        return value
    raise eval_error("wrong-kind", f"this must be a list, and it is {describe(value)}", span)


def _length(e: s.Call, scope: Scope) -> Code | None:
    """`len` of a queue."""
    if len(e.arguments) == 1 and isinstance(e.arguments[0], s.Name):
        found = scope.find(e.arguments[0].text)
        if isinstance(found, QueueSlot):
            place = found.slot
            return lambda env: len(env[place].items)
    return None
