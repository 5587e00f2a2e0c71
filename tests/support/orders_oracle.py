"""Order blocks, interpreted a second time: a slow walk over the syntax, written from the language's
description alone. It gives the sequence of every rank, or says that the order is wrong."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from msgspec import Struct

from stretto.compiler.language import syntax as s


class Wrong(Exception):
    """The order is not one."""


class Skip(Exception):
    """An optional operation of which none is left."""


class Pipe:
    def __init__(self, name: str, ranks: list[int], microbatches: int, forward_only: bool = False):
        self.name, self.ranks, self.microbatches = name, ranks, microbatches
        self.forward_only = forward_only


class Rank:
    """What was given on one rank, and in which order."""

    def __init__(self, rank: int, pipes: list[Pipe], slices: int):
        self.rank, self.pipes, self.slices = rank, pipes, slices
        self.done: list[tuple[Any, ...]] = []  # kind, pipe, stage, micro-batch, slice
        self.units: list[tuple[tuple[Any, ...], ...]] = []

    def candidates(self, kind: str, pipe: Pipe | None, stage: int | None) -> list[Any]:
        """Places (pipe, stage) that fit, for anything but a W that takes the oldest."""
        here = [(p, i) for p in self.pipes for i, r in enumerate(p.ranks) if r == self.rank]
        if pipe is None:
            pipes = {id(p): p for p, _ in here if kind == "F" or not p.forward_only}
            if len(pipes) > 1:
                raise Wrong
            here = [x for x in here if id(x[0]) in pipes]
        else:
            here = [x for x in here if x[0] is pipe]
        if stage is not None:
            here = [x for x in here if x[1] == stage]
            if not here:
                raise Wrong
        if len(here) > 1:
            raise Wrong
        return here

    def was(self, kinds: str, p: Pipe, i: int, m: int, k: int) -> bool:
        return any((kind, p, i, m, k) in self.done for kind in kinds)

    def find(self, kind: str, pipe: Any, stage: Any, m: Any, k: Any) -> tuple[Any, ...]:
        cuts = self.slices or 1
        if kind == "W" and m is None:
            return self.oldest(pipe, stage, k)
        here = self.candidates(kind, pipe, stage)
        if not here:
            raise Skip
        if k is not None and not (self.slices and 0 <= k < cuts):
            raise Wrong
        p, i = here[0]
        if kind != "F" and p.forward_only:
            raise Wrong
        if m is not None and not 0 <= m < p.microbatches:
            raise Wrong
        share = {"F": "F", "B": "BI", "I": "BI", "W": "WB"}[kind]
        order = range(cuts) if kind == "F" else range(cuts - 1, -1, -1)
        for mm in range(p.microbatches) if m is None else [m]:
            for kk in order if k is None else [k]:
                if not self.was(share, p, i, mm, kk):
                    return kind, p, i, mm, kk
        raise Skip

    def oldest(self, pipe: Any, stage: Any, k: Any) -> tuple[Any, ...]:
        here = {(id(p), i) for p in self.pipes for i, r in enumerate(p.ranks) if r == self.rank}
        if stage is not None and not any(
            i == stage and (pipe is None or id(pipe) == q) for q, i in here
        ):
            raise Wrong
        if k is not None and here and not (self.slices and 0 <= k < self.slices):
            raise Wrong
        for kind, p, i, m, kk in self.done:
            if (
                kind == "I"
                and (pipe is None or p is pipe)
                and stage in (None, i)
                and k in (None, kk)
                and not self.was("W", p, i, m, kk)
            ):
                return "W", p, i, m, kk
        raise Skip

    def take(self, asked: tuple[Any, ...]) -> tuple[Any, ...] | None:
        *what, optional = asked
        try:
            found = self.find(*what)
        except Skip:
            if optional:
                return None
            raise Wrong from None
        kind, *where = found
        if kind == "B" and self.was("W", *where):
            raise Wrong
        self.done.append(found)
        return found

    def complete(self) -> bool:
        for p in self.pipes:
            for i, r in enumerate(p.ranks):
                for m in range(p.microbatches if r == self.rank else 0):
                    for k in range(self.slices or 1):
                        if not self.was("F", p, i, m, k):
                            return False
                        whole = self.was("B", p, i, m, k)
                        halves = self.was("I", p, i, m, k) and self.was("W", p, i, m, k)
                        if not p.forward_only and not (whole or halves):
                            return False
        return True


Env = dict[str, Any]


def value(e: s.Expression, env: Env) -> Any:
    match e:
        case s.Number(number):
            return number
        case s.Name(text):
            return env[text]
        case s.Chain(first, rest):
            total = value(first, env)
            for sign, of in rest:
                x = value(of, env)
                total = {
                    "+": lambda a, b: a + b,
                    "-": lambda a, b: a - b,
                    "*": lambda a, b: a * b,
                    "/": lambda a, b: Fraction(a) / b,
                    "//": lambda a, b: a // b,
                    "%": lambda a, b: a % b,
                }[sign](total, x)
            return total
        case s.Comparison(left, sign, right):
            a, b = value(left, env), value(right, env)
            return {"==": a == b, "<": a < b, ">": a > b}[sign]
        case s.Conditional(cases, otherwise):
            for condition, then in cases:
                if value(condition, env):
                    return value(then, env)
            return value(otherwise, env)
        case s.Call(function, (s.Name(text),)) if function.text == "len":
            return len(env[text][1])
    raise TypeError(e)


def whole(e: s.Expression | None, env: Env) -> int | None:
    if e is None:
        return None
    found = value(e, env)
    if found != int(found):
        raise Wrong
    return int(found)


class Walk:
    def __init__(self, rank: Rank):
        self.rank = rank

    def asked(self, m: s.Mention, env: Env) -> tuple[Any, ...]:
        pipe = None if m.pipeline is None else env[m.pipeline.text]
        where = [whole(e, env) for e in (m.stage, m.microbatch, m.slice)]
        return (m.kind, pipe, *where, m.optional)

    def drawn(self, x: s.Next, env: Env) -> Any:
        queue = env[x.queue.text]
        if queue[0] == len(queue[1]):
            if x.optional:
                return None
            raise Wrong
        queue[0] += 1
        return queue[1][queue[0] - 1]

    def ranges(self, some: tuple[s.Range, ...], env: Env, act: Callable[[Env], None]) -> None:
        if not some:
            act(env)
            return
        first, last = whole(some[0].first, env), whole(some[0].last, env)
        assert first is not None and last is not None
        for i in range(first, last):
            self.ranges(some[1:], {**env, some[0].name.text: i}, act)

    def place(self, item: tuple[Any, ...]) -> None:
        took = [self.rank.take(asked) for asked in item]
        if len(took) == 2:
            (k1, p1, _, m1, _), (k2, p2, _, m2, _) = took  # type: ignore[misc]
            if k1 != "F" or k2 not in "BI" or (p1 is p2 and m1 == m2):
                raise Wrong
        if None not in took:
            self.rank.units.append(tuple(took))  # type: ignore[arg-type]

    def half(self, x: Any, env: Env) -> Any:
        if isinstance(x, s.Mention):
            return self.asked(x, env)
        item = self.drawn(x, env)
        if len(item) != 1:
            raise Wrong
        return item[0]

    def block(self, b: s.Block, env: Env, into: list[Any] | None) -> None:
        env = dict(env)
        for x in b.steps:
            self.step(x, env, into)

    def step(self, x: s.Step, env: Env, into: list[Any] | None) -> None:
        act = self.place if into is None else into.append
        match x:
            case s.Mention():
                act((self.asked(x, env),))
            case s.Next():
                item = self.drawn(x, env)
                if item is not None:
                    act(item)
            case s.Pair(first, second):
                act((self.half(first, env), self.half(second, env)))
            case s.Repeat(count, name, body):
                times = whole(count, env)
                assert times is not None
                if times < 0:
                    raise Wrong
                for k in range(times):
                    self.block(body, {**env, name.text: k} if name else env, into)
            case s.Loop(some, body):
                self.ranges(some, env, lambda e: self.block(body, e, into))
            case s.If(cases, otherwise):
                for condition, body in cases:
                    if value(condition, env):
                        return self.block(body, env, into)
                if otherwise:
                    self.block(otherwise, env, into)
            case s.Let(name, e):
                env[name.text] = value(e, env)
            case s.Queue(name, of, some):
                items: list[Any] = []
                self.ranges(some, env, lambda e: items.append((self.asked(of, e),)))
                env[name.text] = [0, items]
            case s.QueueBlock(name, body):
                listed: list[Any] = []
                self.block(body, env, listed)
                env[name.text] = [0, listed]


def no_backwards(node: Any, forward_only: set[str]) -> None:
    """What has no backward must not be asked for one, be it run or not."""
    if isinstance(node, s.Mention):
        name = node.pipeline.text if node.pipeline else ""
        if node.kind != "F" and name in forward_only:
            raise Wrong
    elif isinstance(node, tuple):
        for one in node:
            no_backwards(one, forward_only)
    elif isinstance(node, Struct):
        no_backwards(tuple(getattr(node, f) for f in node.__struct_fields__), forward_only)


def order(
    body: s.Block, rank: int, name: str, pipes: list[Pipe], slices: int, env: Env
) -> list[list[str]] | None:
    """The rank's units, each operation as `F a 0 3 1`; None if the order is wrong."""
    made = Rank(rank, pipes, slices)
    try:
        no_backwards(body, {p.name for p in pipes if p.forward_only})
        Walk(made).block(body, {**env, name: rank, **{p.name: p for p in pipes}}, None)
    except Wrong:
        return None
    if not made.complete():
        return None
    return [[f"{k} {p.name} {i} {m} {c}" for k, p, i, m, c in unit] for unit in made.units]
