"""Random files with parts against the language's rules, said again here as loops over operations:
which parts a stage has, what each operation costs, what a part adds to memory, what rules mean."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from random import Random
from typing import NamedTuple

import pytest

from stretto.compiler.diagnostics.source import Source
from stretto.compiler.evaluation import evaluate
from stretto.compiler.language.parse import parse
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.problem import EdgeKind
from stretto.compiler.problem.spec import Costs, Operation, Spec

CONDITIONS: dict[str, Callable[[int, int], bool]] = {
    "s == 0": lambda s, n: s == 0,
    "s == stages - 1": lambda s, n: s == n - 1,
    "s % 2 == 1 or stages < 3": lambda s, n: s % 2 == 1 or n < 3,
    "not s > few": lambda s, n: not s > 1,
}
COUNTS: dict[str, Callable[[int, int], int]] = {
    "2": lambda s, n: 2,
    "few": lambda s, n: 1,
    "count[s]": lambda s, n: (2, 0, 1, 3, 1, 0)[s],
    "(stages - s)": lambda s, n: n - s,
    "max(0, s - 1)": lambda s, n: max(0, s - 1),
}
HEAD = "let few = 1 let count = [2, 0, 1, 3, 1, 0]\n"


class Item(NamedTuple):
    """A part of the statement: (name, stream, its condition), or a group of them."""

    layers: str | None
    parts: list[tuple[str, str, str | None]]
    condition: str | None


class Said(NamedTuple):
    """A cost or, with kind `A`, an activation, for all that its indices leave open."""

    kind: str
    part: str
    pipeline: str | None
    stage: int | None
    microbatch: int | None
    layer: int | None
    value: Fraction

    def text(self) -> str:
        places = [str(x) for x in (self.stage, self.microbatch) if x is not None]
        places += [f"layer {self.layer}"] if self.layer is not None else []
        name = f" {self.pipeline}" if self.pipeline else ""
        index = f"[{', '.join(places)}]" if places else ""
        word, kind = ("activation", "F") if self.kind == "A" else ("cost", self.kind)
        return f"{word} {kind}.{self.part}{name}{index} = {self.value}\n"

    def fits(self, kind: str, name: str, o: Operation, part: str, layer: int) -> bool:
        asked = (self.pipeline, self.stage, self.microbatch, self.layer)
        found = (name, o.stage, o.microbatch, layer)
        same = all(x in (None, y) for x, y in zip(asked, found, strict=True))
        return same and (self.kind, self.part) == (kind, part)


class File:
    """A random file, and what it means."""

    def __init__(self, seed: int):
        self.random = random = Random(seed)
        self.split = random.random() < 0.6
        self.lines = [("main", random.randint(1, 4), 3, random.random() < 0.2)]
        if random.random() < 0.5:
            self.lines.append(("side", random.randint(1, 6), 2, random.random() < 0.3))
        self.items, number = [], 0
        for _ in range(random.randint(1, 4)):
            parts = []
            for _ in range(random.choice((1, 1, 2, 3))):
                stream = random.choice(("compute", "compute", "comm", "host"))
                parts.append((f"p{number}", stream, self.maybe(CONDITIONS, 0.2)))
                number += 1
            count = random.choice(list(COUNTS)) if len(parts) > 1 or random.random() < 0.3 else None
            self.items.append(Item(count, parts, self.maybe(CONDITIONS, 0.3) if count else None))
        self.items.append(Item(None, [("always", "compute", None)], None))
        self.said = [self.statement() for _ in range(random.randint(0, 12))]
        self.said = [x for x in self.said if self.somewhere(x)]

    def maybe(self, table: Mapping[str, object], chance: float) -> str | None:
        return self.random.choice(list(table)) if self.random.random() < chance else None

    def statement(self) -> Said:
        random = self.random
        item = random.choice(self.items)
        name, stream, _ = random.choice(item.parts)
        name_, stages, microbatches, _ = random.choice(self.lines)
        kinds = "FFIWA" if self.split else "FFIBWA"
        kind = random.choice(kinds if stream == "compute" else kinds.replace("W", "F"))
        stage = random.randrange(stages) if random.random() < 0.6 else None
        at = stage is not None and kind != "A" and random.random() < 0.4
        return Said(
            kind,
            name,
            name_ if stage is not None or random.random() < 0.3 else None,
            stage,
            random.randrange(microbatches) if at else None,
            random.randrange(2) if item.layers and random.random() < 0.4 else None,
            Fraction(random.randint(0, 12), random.randint(1, 4)),
        )

    def chain(self, stage: int, stages: int) -> list[tuple[str, int, str]]:
        """Name, layer and stream of the parts of a stage."""

        def holds(condition: str | None) -> bool:
            return condition is None or CONDITIONS[condition](stage, stages)

        found = []
        for count, parts, condition in self.items:
            times: Sequence[int] = [-1] if count is None else range(COUNTS[count](stage, stages))
            for layer in times if holds(condition) else ():
                found += [(name, layer, stream) for name, stream, own in parts if holds(own)]
        return found

    def somewhere(self, x: Said) -> bool:
        """Whether the statement fits a part of a stage."""
        return any(
            x.pipeline in (None, line)
            and x.stage in (None, s)
            and any(x.part == name and x.layer in (None, la) for name, la, _ in self.chain(s, n))
            for line, n, _, _ in self.lines
            for s in range(n)
        )

    def text(self) -> str:
        lines = "".join(
            f'pipeline {name} {{ stages {stages} microbatches {microbatches} model "{name}" '
            f"{'forward only' if forward else ''} }}\n"
            for name, stages, microbatches, forward in self.lines
        )
        said = "".join(x.text() for x in self.said)
        split = "split B into I, W\n" if self.split else ""
        items = ",\n  ".join(map(_item, self.items))
        return (
            f"schedule example ranks 2 microbatches 3\n{HEAD}{lines}"
            f"split F[s] into {items}\n{split}{said}"
        )

    def cost(self, kind: str, o: Operation) -> Fraction:
        """The last that fits; else what follows from the other kinds."""
        name, stages, _, _ = self.lines[o.pipeline]
        part, layer, stream = self.chain(o.stage, stages)[o.part]
        for x in reversed(self.said):
            if x.fits(kind, name, o, part, layer):
                return x.value
        if kind == "B":
            return sum(
                (self.cost(k, o) for k in ("IW" if stream == "compute" else "I")), Fraction()
            )
        return Fraction(1) if kind == "F" else self.cost("F", o)

    def activation(self, o: Operation) -> Fraction:
        name, stages, _, _ = self.lines[o.pipeline]
        part, layer, _ = self.chain(o.stage, stages)[o.part]
        fitting = [x.value for x in self.said if x.fits("A", name, o, part, layer)]
        return fitting[-1] if fitting else Fraction()


def _item(item: Item) -> str:
    parts = ", ".join(
        name + (f" on {stream}" if stream != "compute" else "") + (f" if {own}" if own else "")
        for name, stream, own in item.parts
    )
    if item.layers is None:
        return parts
    return f"{item.layers} * ({parts})" + (f" if {item.condition}" if item.condition else "")


def evaluated(text: str) -> Spec:
    return evaluate(parse(Source("random.pipe", text)))


@pytest.mark.parametrize("seed", range(150))
def test_files_mean_what_the_language_says(seed: int) -> None:
    file = File(seed)
    spec = evaluated(file.text())
    for p, (_, stages, _, _) in enumerate(file.lines):
        for s in range(stages):
            told = [(part.name, part.layer, spec.streams[part.stream]) for part in spec.parts[p][s]]
            assert told == file.chain(s, stages)
    costs = Costs(spec)
    kinds = {"F"}
    for o in expand(spec).operations:
        kinds.add(o.kind)
        assert costs.of(o) == file.cost(o.kind, o) * spec.time_unit, (o, file.text())
        stage = spec.pipelines[o.pipeline].stages[o.stage]
        assert stage.parts[o.part].activation == file.activation(o) * spec.size_unit
    trained = not all(forward for *_, forward in file.lines)
    assert kinds == ({"F", "I", "W"} if file.split else {"F", "B"}) or not trained


@pytest.mark.parametrize("seed", range(60))
def test_rules_bind_all_that_they_name(seed: int) -> None:
    """With a rule in the file its operations have exactly the ancestors that the pairs of parts
    would give them, each written out by itself."""
    file, random = File(seed), Random(seed)
    name, stages, _, forward = file.lines[0]
    kinds = "F" if forward else "FIWB" if file.split else "FB"
    later, earlier = random.choice(kinds), random.choice(kinds)
    s, t = random.randrange(stages), random.randrange(stages)
    part = random.choice([None, *sorted({part for part, _, _ in file.chain(t, stages)})])
    streams: dict[str | None, str] = {name: stream for name, _, stream in file.chain(t, stages)}
    if part and (
        (earlier == "B" and file.split) or (earlier == "W" and streams[part] != "compute")
    ):
        part = None
    dotted = f".{part}" if part else ""
    rule = f"rule {later} {name}[{s}, 2] after {earlier}{dotted} {name}[{t}, 0]\n"
    without, ruled = evaluated(file.text()), evaluated(file.text() + rule)
    problem = expand(ruled)

    def means(kind: str, at: int, m: int, named: str | None) -> list[int]:
        letters = ("I", "W") if kind == "B" and file.split else (kind,)
        return [
            i
            for i, o in enumerate(problem.operations)
            if (o.pipeline, o.stage, o.microbatch) == (0, at, m)
            and o.kind in letters
            and named in (None, ruled.parts[0][at][o.part].name)
        ]

    pairs = [(a, b) for a in means(earlier, t, 0, part) for b in means(later, s, 2, None)]
    plain = expand(without)
    edges = list(zip(plain.tail, plain.head, strict=True))
    every = ancestors(len(plain.operations), edges + pairs)
    assert pairs and every == ancestors(
        len(plain.operations), list(zip(problem.tail, problem.head, strict=True))
    )
    assert sum(why is EdgeKind.RULE for why in problem.why) <= len(pairs)


def ancestors(many: int, edges: list[tuple[int, int]]) -> list[int]:
    """What comes before each operation, as bits."""
    found = [0] * many
    before: list[list[int]] = [[] for _ in range(many)]
    for a, b in edges:
        before[b].append(a)
    changed = True
    while changed:
        changed = False
        for i in range(many):
            new = found[i]
            for a in before[i]:
                new |= found[a] | 1 << a
            changed |= new != found[i]
            found[i] = new
    return found
