"""`split F[s] into a if s == 0, n * (b, c on comm), …`: the chain of parts of every stage, with
conditions and numbers of layers worked out and groups unrolled (`StageChains`)."""

from collections.abc import Callable
from typing import NamedTuple

from msgspec import Struct

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label
from stretto.compiler.diagnostics.suggest import nearest
from stretto.compiler.evaluation.declared import Declarations, PipelineDecl
from stretto.compiler.evaluation.expressions.compile import compile_expression, compile_whole
from stretto.compiler.evaluation.expressions.ranges import bindings
from stretto.compiler.evaluation.expressions.scope import Scope
from stretto.compiler.evaluation.expressions.values import Code, Env, show, truth
from stretto.compiler.evaluation.reports import (
    MOST_PER_RANK,
    AlreadyReported,
    EvalError,
    Reports,
    diagnosis,
    eval_error,
)
from stretto.compiler.language import syntax as s
from stretto.compiler.problem.spec import MOST_STREAMS, NONE, Part, backward_kinds

COMPUTE = "compute"

StageChain = tuple[Part, ...]


class StageChains(Struct, frozen=True):
    """The names of the streams, `compute` first, then as they stand in the text; and by pipeline
    and stage the parts, in the order of the forward. Equal chains are one value."""

    streams: tuple[str, ...]
    parts: tuple[tuple[StageChain, ...], ...]


def chains(declared: Declarations, max_ops: int, reports: Reports) -> StageChains | None:
    """The chains of all stages. None where stages are whole, and where something is wrong, which is
    then reported; nothing is unrolled that has more than `max_ops` operations."""
    if declared.parts is None:
        return None
    statement: s.SplitForward = declared.parts.statement
    scope = declared.parts.scope.frame()
    stages = scope.define_word("stages", statement.span)
    if statement.stage is None:
        scope.binding_hint = "name the stage: `split F[{}] into …`"
    stage = scope.define_slot(statement.stage, varies=True) if statement.stage else None
    streams = (COMPUTE, *dict.fromkeys(stream_names(statement)))
    if len(streams) > MOST_STREAMS:
        reports.add(_too_many_streams(statement, streams))
        return None
    items = [_compile_item(item, streams, scope) for item in statement.items]
    before, room, found = reports.count, max_ops, []
    known: dict[StageChain, StageChain] = {}
    env: Env = [None] * scope.size
    for line in declared.pipelines:
        env[stages] = line.value.stages
        row: list[StageChain] = []
        for number in range(line.value.stages or 0):
            if stage is not None:
                env[stage] = number
            try:
                reports.work.spend(len(statement.items), statement.span)
                layers = [item.layers(env) for item in items]
                room -= _operations(declared, line, layers)
                if room < 0:
                    raise _too_many(statement, max_ops)
                chain = _unroll(layers)
                if not chain:
                    raise _without(statement, line, number)
                row.append(known.setdefault(chain, chain))
            except EvalError as error:
                reports.add_repeated(error.diagnostic, bindings(scope, env))
                if room < 0 or len(row) < number - MOST_PER_RANK:
                    return None
            except AlreadyReported:
                return None
        found.append(tuple(row))
    return StageChains(streams, tuple(found)) if reports.count == before else None


def stream_names(statement: s.SplitForward) -> list[str]:
    """The streams that parts are said to be on, other than `compute`, as they stand in the text."""
    named = [part.stream.text for part in parts_of(statement) if part.stream is not None]
    return [name for name in named if name != COMPUTE]


def parts_of(statement: s.SplitForward) -> list[s.Part]:
    """All parts of the statement, those in groups too, as they stand in the text."""
    return [
        part
        for item in statement.items
        for part in ((item,) if isinstance(item, s.Part) else item.parts)
    ]


class _Layers(NamedTuple):
    """So many layers of these parts; -1 is one time outside of layers."""

    number: int
    parts: tuple[tuple[str, int], ...]  # name, stream


class _Item(NamedTuple):
    """One item of the chain, compiled: from the environment of a stage to what is there of it.
    Calling it raises `EvalError` and `AlreadyReported`."""

    layers: Callable[[Env], _Layers]


def _compile_item(item: s.Part | s.PartGroup, streams: tuple[str, ...], scope: Scope) -> _Item:
    some = (item,) if isinstance(item, s.Part) else item.parts
    parts = [
        (
            (part.name.text, streams.index(part.stream.text) if part.stream else 0),
            _compile_condition(part.condition, scope),
        )
        for part in some
    ]
    if isinstance(item, s.Part):
        return _Item(lambda env: _Layers(NONE, tuple(name for name, there in parts if there(env))))
    count = compile_whole(item.count, scope, "a number of layers")
    condition, span = _compile_condition(item.condition, scope), item.count.span
    work = scope.reports.work

    def layers(env: Env) -> _Layers:
        work.spend(len(parts), span)
        if not condition(env):
            return _Layers(0, ())
        layers = count(env)
        if layers < 0:
            message = f"there would be {show(layers)} layers of this group"
            raise eval_error("out-of-range", message, span, help="write `max(0, …)`, or `if …`")
        there = tuple(name for name, there in parts if there(env))
        return _Layers(layers, there)

    return _Item(layers)


def _compile_condition(e: s.Expression | None, scope: Scope) -> Callable[[Env], bool]:
    if e is None:
        return lambda env: True
    code: Code = compile_expression(e, scope)
    span = e.span
    return lambda env: truth(code(env), span)


def _operations(declared: Declarations, line: PipelineDecl, layers: list[_Layers]) -> int:
    """How many operations a stage of these layers has in one step."""
    each = 0
    for count, parts in layers:
        for _, stream in parts:
            kinds = backward_kinds(stream, declared.split is not None)
            each += abs(count) * (1 if line.forward_only else 1 + len(kinds))
    return each * (line.value.microbatches or 1)


def _unroll(layers: list[_Layers]) -> StageChain:
    return tuple(
        Part(name, layer, stream)
        for count, parts in layers
        for layer in (range(count) if count != NONE else (NONE,))
        for name, stream in parts
    )


def _too_many(statement: s.SplitForward, max_ops: int) -> EvalError:
    return eval_error(
        "too-large",
        f"this step may have more than {max_ops:,} operations, each part counted",
        statement.span,
        help="`--max-ops` allows more",
    )


def _too_many_streams(statement: s.SplitForward, streams: tuple[str, ...]) -> Diagnostic:
    first = next(
        part.stream
        for part in parts_of(statement)
        if part.stream is not None and part.stream.text == streams[MOST_STREAMS]
    )
    return diagnosis(
        "too-large",
        f"with `{COMPUTE}` every rank would have {len(streams):,} streams; {MOST_STREAMS} are the "
        "most",
        Label(first.span, "the first that is too many"),
        help="let parts share streams: those that follow each other anyway lose nothing",
    )


def _without(statement: s.SplitForward, line: PipelineDecl, stage: int) -> EvalError:
    return eval_error(
        "no-part",
        f"stage {stage} of `{line.name.text}` has no part",
        Label(statement.span, "every stage needs one"),
    )


# ---- Mentions of parts


def check_part(mention: s.Mention, declared: Declarations, reports: Reports) -> Diagnostic | None:
    """What is wrong with the part that a mention names, on all stages: nothing where it may be
    there, as far as the text alone tells."""
    word = mention.part
    assert word is not None and declared.parts is not None
    statement: s.SplitForward = declared.parts.statement
    known = declared.part_names
    part = known.get(word.text)
    if part is None:
        near = nearest(word.text, known) if reports.suggests else None
        return diagnosis(
            "unknown-name",
            f"no part is called `{word.text}`",
            Label(word.span),
            Label(
                known[near].name.span if near else statement.span,
                "the parts" if not near else "a close name",
            ),
            help=f"did you mean `{near}`?" if near else None,
        )
    if mention.kind == "W" and part.stream is not None and part.stream.text != COMPUTE:
        return diagnosis(
            "no-such-operation",
            f"there is no `W.{word.text}`: on `{part.stream.text}` its `I` does all the work",
            Label(mention.span),
            Label(part.span, f"it is not on `{COMPUTE}`"),
            help=f"I.{word.text}",
        )
    return None


def no_whole_backward(mention: s.Mention, split: s.SplitBackward) -> Diagnostic:
    """A part of a `B` where backwards are split."""
    assert mention.part is not None
    name = mention.part.text
    return diagnosis(
        "no-such-operation",
        f"there is no `B.{name}`: backwards are split",
        Label(mention.span),
        Label(split.span, "here"),
        help=f"`I.{name}`, and `W.{name}` where it runs on `{COMPUTE}`",
    )
