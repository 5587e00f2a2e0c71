"""Syntax back to text, written from the language's description alone; and syntax made at random.
Parsing what was printed must give the same syntax again."""

from fractions import Fraction
from typing import Any

from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from stretto.compiler.diagnostics.source import Source, Span
from stretto.compiler.language import syntax as s

NOWHERE = Span("", 0, 0, 0, 0)
TIGHTNESS = {s.Conditional: 0, s.Either: 1, s.Both: 2, s.Not: 3, s.Comparison: 4, s.Negative: 7}


def bare(node: Any) -> Any:
    """The node as plain tuples, without spans."""
    if isinstance(node, Struct):
        fields = [f for f in node.__struct_fields__ if f not in ("span", "source")]
        return (type(node).__name__, *(bare(getattr(node, f)) for f in fields))
    return tuple(bare(x) for x in node) if isinstance(node, tuple) else node


# ---- Printing


def tightness(e: s.Expression) -> int:
    if isinstance(e, s.Chain):
        return 5 if e.rest[0][0] in "+-" else 6
    return TIGHTNESS.get(type(e), 8)


def at_least(e: s.Expression, tight: int) -> str:
    text = expression(e)
    return text if tightness(e) >= tight else f"({text})"


def expression(e: s.Expression) -> str:
    own = tightness(e)
    match e:
        case s.Number(value):
            if isinstance(value, int):
                return str(value)
            return f"{value.numerator / value.denominator}"  # only halves and quarters are made
        case s.Name(text):
            return text
        case s.Member(of, member):
            return f"{of.text}.{member.text}"
        case s.Call(function, arguments):
            return f"{function.text}({listed(arguments)})"
        case s.List(items):
            return f"[{listed(items)}]"
        case s.Subscript(of, indices):
            return at_least(of, 8) + "".join(f"[{expression(i)}]" for i in indices)
        case s.Negative(of):
            return f"-{at_least(of, own)}"
        case s.Not(of):
            return f"not {at_least(of, own)}"
        case s.Chain(first, rest):
            return at_least(first, own + 1) + "".join(
                f" {sign} {at_least(of, own + 1)}" for sign, of in rest
            )
        case s.Comparison(left, sign, right):
            return f"{at_least(left, own + 1)} {sign} {at_least(right, own + 1)}"
        case s.Both(operands) | s.Either(operands):
            word = " and " if own == 2 else " or "
            return word.join(at_least(o, own + 1) for o in operands)
        case s.Conditional(cases, otherwise):
            told = "".join(f"if {expression(c)} then {expression(v)} else " for c, v in cases)
            return told + at_least(otherwise, 1)
    raise TypeError(e)


def listed(items: tuple[s.Expression, ...]) -> str:
    return ", ".join(map(expression, items))


def ranges(some: tuple[s.Range, ...]) -> str:
    told = ", ".join(
        f"{r.name.text} in {expression(r.first)} .. {expression(r.last)}" for r in some
    )
    return f" for {told}" if some else ""


def mention(m: s.Mention) -> str:
    index = [expression(e) for e in (m.stage, m.microbatch) if e is not None]
    if m.slice is not None:
        index.append(f"slice {expression(m.slice)}")
    if m.layer is not None:
        index.append(f"layer {expression(m.layer)}")
    part = f".{m.part.text}" if m.part else ""
    name = f" {m.pipeline.text}" if m.pipeline else ""
    inside = f"[{', '.join(index)}]" if index else ""
    return f"{m.kind}{'?' * m.optional}{part}{name}{inside}"


def part_item(x: s.Part | s.PartGroup) -> str:
    where = f" if {expression(x.condition)}" if x.condition is not None else ""
    if isinstance(x, s.Part):
        return x.name.text + (f" on {x.stream.text}" if x.stream else "") + where
    count = at_least(x.count, 8)
    return f"{count} * ({', '.join(map(part_item, x.parts))}){where}"


def sized(x: s.Activation | s.Kept) -> str:
    name = f" {x.pipeline.text}" if x.pipeline else ""
    index = f"[{expression(x.stage)}]" if x.stage else ""
    return f"{name}{index} = {expression(x.value)}{ranges(x.ranges)}"


def block(b: s.Block) -> str:
    return "{ " + "; ".join(map(step, b.steps)) + " }"


def step(x: s.Step) -> str:
    match x:
        case s.Mention():
            return mention(x)
        case s.Next(queue, optional):
            return f"next{'?' * optional} {queue.text}"
        case s.Pair(first, second):
            return f"{step(first)} | {step(second)}"
        case s.Repeat(count, name, body):
            return f"repeat {expression(count)}{f' as {name.text}' if name else ''} {block(body)}"
        case s.Loop(some, body):
            return f"{ranges(some).strip()} {block(body)}"
        case s.If(cases, otherwise):
            told = " else ".join(f"if {expression(c)} {block(b)}" for c, b in cases)
            return told + (f" else {block(otherwise)}" if otherwise else "")
        case s.Let(name, value):
            return f"let {name.text} = {expression(value)}"
        case s.Queue(name, of, some):
            return f"queue {name.text} = {mention(of)}{ranges(some)}"
        case s.QueueBlock(name, body):
            return f"queue {name.text} {block(body)}"
    raise TypeError(x)


def statement(x: Any) -> str:
    match x:
        case s.Titled(name):
            return f"schedule {name.text}"
        case s.Ranks(value) | s.Microbatches(value) | s.Stages(value):
            return f"{type(x).__name__.lower()} {expression(value)}"
        case s.Param(name, value):
            return f"param {name.text} = {expression(value)}"
        case s.Let():
            return step(x)
        case s.Require(condition, why):
            return f"require {expression(condition)}" + (f', "{why}"' if why is not None else "")
        case s.Pipeline(name, properties):
            return f"pipeline {name.text} {{ {' '.join(map(statement, properties))} }}"
        case s.Place(stage, rank):
            return f"place {stage.text} -> {expression(rank)}"
        case s.Replicates(original):
            return f"replicates {original.text}"
        case s.ModelName(name):
            return f'model "{name}"'
        case s.Feeds(pipeline, stage):
            return f"feeds {pipeline.text}[{expression(stage)}]"
        case s.ForwardOnly():
            return "forward only"
        case s.SplitBackward():
            return "split B into I, W"
        case s.SplitForward(stage, items):
            index = f"[{stage.text}]" if stage else ""
            return f"split F{index} into {', '.join(map(part_item, items))}"
        case s.SplitMicrobatch(slices):
            return f"split microbatch into {expression(slices)} slices"
        case s.Overlap(kind):
            return f"overlap F | {kind}"
        case s.Cost(of, other, value, some):
            pair = f" | {mention(other)}" if other else ""
            return f"cost {mention(of)}{pair} = {expression(value)}{ranges(some)}"
        case s.Activation():
            return f"activation{sized(x)}"
        case s.PartActivation(of, value, some):
            return f"activation {mention(of)} = {expression(value)}{ranges(some)}"
        case s.Kept():
            return f"activation after I{sized(x)}"
        case s.Transfer(value, source, target):
            told = f" for rank {source.text} -> {target.text}" if source and target else ""
            return f"transfer {expression(value)}{told}"
        case s.Limit(value, rank):
            told = f" for rank {rank.text}" if rank else ""
            return f"limit activations <= {expression(value)}{told}"
        case s.Minimize(aim, jitter):
            return f"minimize {aim}" + (f" under jitter {expression(jitter)}" if jitter else "")
        case s.Rule(later, earlier, some):
            return f"rule {mention(later)} after {mention(earlier)}{ranges(some)}"
        case s.OrderRank(rank, body):
            return f"order rank {rank.text} {block(body)}"
        case s.OrderAuto():
            return "order auto"
    raise TypeError(x)


def schedule(x: s.Schedule) -> str:
    return "\n".join(map(statement, x.statements)) + "\n"


# ---- Making at random

NAMES = st.sampled_from(["a", "bc", "x_1", "forward", "rank", "ranks", "cost", "on", "Fx", "nexts"])
WORDS = NAMES.map(lambda text: s.Word(text, NOWHERE))
KINDS = st.sampled_from("FBIW")
LEAVES = st.one_of(
    st.integers(0, 10**30).map(lambda n: s.Number(n, NOWHERE)),
    st.integers(1, 999).map(lambda n: s.Number(whole(Fraction(n, 4)), NOWHERE)),
    st.one_of(NAMES, st.just("stages"), KINDS).map(lambda text: s.Name(text, NOWHERE)),
    st.builds(s.Member, WORDS, WORDS, st.just(NOWHERE)),
)


def whole(value: Fraction) -> int | Fraction:
    return value.numerator if value.denominator == 1 else value


def node(kind: Any, *fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(kind, *fields, st.just(NOWHERE))


def some_of(strategy: st.SearchStrategy[Any], least: int = 0) -> st.SearchStrategy[Any]:
    return st.lists(strategy, min_size=least, max_size=3).map(tuple)


def chains(of: st.SearchStrategy[Any], signs: list[str]) -> st.SearchStrategy[Any]:
    rest = some_of(st.tuples(st.sampled_from(signs), of), least=1)
    return node(s.Chain, of, rest)


def larger(of: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    functions = st.sampled_from(["min", "max", "abs", "ceil", "floor", "len"])
    signs = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
    return st.one_of(
        node(s.Call, functions.map(lambda f: s.Word(f, NOWHERE)), some_of(of)),
        node(s.List, some_of(of)),
        node(s.Subscript, of.filter(lambda e: not isinstance(e, s.Subscript)), some_of(of, 1)),
        node(s.Negative, of),
        node(s.Not, of),
        chains(of, ["+", "-"]),
        chains(of, ["*", "/", "//", "%"]),
        node(s.Comparison, of, signs, of),
        node(s.Both, st.lists(of, min_size=2, max_size=3).map(tuple)),
        node(s.Either, st.lists(of, min_size=2, max_size=3).map(tuple)),
        node(
            s.Conditional,
            some_of(st.tuples(of, of), 1),
            of.filter(lambda e: not isinstance(e, s.Conditional)),
        ),
    )


EXPRESSIONS = st.recursive(LEAVES, larger, max_leaves=8)
RANGES = some_of(node(s.Range, WORDS, EXPRESSIONS, EXPRESSIONS), 1)
MAYBE = st.none() | EXPRESSIONS


@st.composite
def mentions(draw: Any, optional: bool = False, part: bool = True, kinds: str = "FBIW") -> Any:
    stage, named = draw(MAYBE), part and draw(st.none() | WORDS)
    return s.Mention(
        draw(st.sampled_from(kinds)),
        optional and draw(st.booleans()),
        named or None,
        draw(st.none() | WORDS),
        stage,
        draw(MAYBE) if stage is not None else None,
        draw(MAYBE),
        draw(MAYBE) if named else None,
        NOWHERE,
    )


def of_part(x: s.Mention) -> s.Mention:
    return replace(x, kind="F", part=s.Word("a", NOWHERE), microbatch=None, slice=None)


def exact() -> st.SearchStrategy[Any]:
    return mentions().filter(lambda m: not m.stage is m.slice is m.layer is None)


TAKES = node(s.Next, WORDS, st.booleans())
PAIRS = node(
    s.Pair,
    mentions(part=False) | node(s.Next, WORDS, st.just(False)),
    mentions(part=False) | node(s.Next, WORDS, st.just(False)),
)
LETS = node(s.Let, WORDS, EXPRESSIONS)
SIMPLE = st.one_of(
    mentions(optional=True), TAKES, PAIRS, LETS, node(s.Queue, WORDS, mentions(True), RANGES)
)


def blocks(steps: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return node(s.Block, some_of(steps))


STEPS = st.recursive(
    SIMPLE,
    lambda steps: st.one_of(
        node(s.Repeat, EXPRESSIONS, st.none() | WORDS, blocks(steps)),
        node(s.Loop, RANGES, blocks(steps)),
        node(
            s.If,
            some_of(st.tuples(EXPRESSIONS, blocks(steps)), 1),
            st.none() | blocks(steps),
        ),
        node(s.QueueBlock, WORDS, blocks(steps)),
    ),
    max_leaves=6,
)
TEXTS = st.text("abc é→", max_size=5)
PROPERTIES = st.one_of(
    node(s.Stages, EXPRESSIONS),
    node(s.Microbatches, EXPRESSIONS),
    node(s.Place, WORDS, EXPRESSIONS),
    node(s.Replicates, WORDS),
    node(s.ModelName, TEXTS),
    node(s.Feeds, WORDS, EXPRESSIONS),
    node(s.ForwardOnly),
)
PARTS = node(s.Part, WORDS, st.none() | WORDS, MAYBE)
GROUPS = node(s.PartGroup, EXPRESSIONS, some_of(PARTS, 1), MAYBE)
STATEMENTS = st.one_of(
    node(s.Titled, WORDS),
    node(s.Ranks, EXPRESSIONS),
    node(s.Microbatches, EXPRESSIONS),
    node(s.Param, WORDS, EXPRESSIONS),
    LETS,
    node(s.Require, EXPRESSIONS, st.none() | TEXTS),
    node(s.Pipeline, WORDS, some_of(PROPERTIES)),
    node(s.SplitBackward),
    node(s.SplitForward, st.none() | WORDS, some_of(PARTS | GROUPS, 1)),
    node(s.SplitMicrobatch, EXPRESSIONS),
    node(s.Overlap, st.sampled_from("BI")),
    node(s.Cost, mentions(), st.none(), EXPRESSIONS, RANGES | st.just(())),
    node(s.Activation, st.none() | WORDS, MAYBE, EXPRESSIONS, RANGES | st.just(())),
    node(s.PartActivation, mentions().map(of_part), EXPRESSIONS, RANGES | st.just(())),
    node(s.Kept, st.none() | WORDS, MAYBE, EXPRESSIONS, RANGES | st.just(())),
    st.one_of(
        node(s.Transfer, EXPRESSIONS, st.none(), st.none()),
        node(s.Transfer, EXPRESSIONS, WORDS, WORDS),
    ),
    node(s.Limit, EXPRESSIONS, st.none() | WORDS),
    node(s.Minimize, st.sampled_from(["makespan", "span"]), MAYBE),
    node(s.Rule, exact(), exact(), RANGES | st.just(())),
    node(s.OrderRank, WORDS, blocks(STEPS)),
    node(s.OrderAuto),
)
SCHEDULES = st.lists(STATEMENTS, max_size=6).map(
    lambda some: s.Schedule(Source("random.pipe", ""), tuple(some))
)
