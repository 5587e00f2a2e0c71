"""Random schedule files with some of every statement of the language, and a written order, a part
of one or none: for what must hold of any file."""

import re
from collections.abc import Iterator, Sequence
from random import Random

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.evaluation import Settings, evaluate
from stretto.compiler.language.parse import parse
from stretto.compiler.problem.spec import Operation, Spec
from tests.support import specs
from tests.support.part_programs import lists_at_random

KINDS = {
    "parts": r"split F",
    "streams": r" on comm",
    "layers": r"2 \* \(",
    "slices": r"slices",
    "split backwards": r"split B",
    "overlaps": r"overlap",
    "copies": r"replicates",
    "several models": r"pipeline other",
    "feeds": r"feeds",
    "forwards only": r"forward only",
    "averaged": r"reduce gradients",
    "gathered": r"unshard weights",
    "costs": r"cost [FBIW]",
    "costs of one": r"cost \w[.\w]*\[",
    "latencies": r"transfer",
    "limits": r"limit",
    "jitter": r"jitter",
    "spans": r"minimize span",
    "rules": r"rule",
    "written": r"order rank r \{(?!.*order auto)",
    "written in part": r"order rank r \{.*order auto",
    "pairs": r"order rank.* \| ",
}
"""What a file may have, by what then stands in its text."""

FEW = Settings(max_ops=3_000)


def kinds_of(text: str) -> set[str]:
    """What the file has."""
    return {kind for kind, words in KINDS.items() if re.search(words, text, re.DOTALL)}


def random_file(random: Random) -> str:
    """A random schedule."""
    declared = _declared(random)
    if random.random() < 0.5:
        return declared
    return declared + _order(declared, random)


def _declared(random: Random) -> str:
    """All but an order."""
    ranks, many = random.randint(1, 3), random.randint(1, 4)
    lines = [f"schedule random ranks {ranks} microbatches {many}"]
    lines += [f"pipeline {name} {{ {words} }}" for name, words in _pipelines(random, ranks, many)]

    def some(chance: float, *statements: str) -> None:
        if random.random() < chance:
            lines.append(random.choice(statements))

    some(0.5, "split B into I, W")
    split = lines[-1].startswith("split B")
    parts = list[str]()
    if random.random() < 0.35:
        lines.append(f"split F[s] into {_parts(random)}")
        parts = [f".{name}" for name in re.findall(r"\b(a|b|c|d)\b", lines[-1])]
    else:
        some(0.2, "split microbatch into 2 slices")
        some(0.35, "overlap F | B")
        some(0.35 if split else 0.1, "overlap F | I")
    costs = ["0", "1", "1", "2", "3", "5", "3/2"]
    kinds = [kind + part for kind in ("FI" if split else "FB") for part in parts or [""]]
    pairs = [line.removeprefix("overlap ") for line in lines if line.startswith("overlap")]
    for kind in (*kinds, *pairs):
        some(0.3, f"cost {kind} = {random.choice(costs)}")
    some(0.3, f"cost {random.choice(kinds)}[0, 0] = {random.choice(costs)}")
    some(0.2, f"cost {random.choice(kinds)}[s] = s + 1 for s in 0 .. main.stages")
    some(0.2, "transfer 1", "transfer 3/2", "transfer a + b for rank a -> b")
    some(0.2, f"transfer {random.choice(costs)}") if "transfer" not in lines[-1] else None
    some(
        0.3, f"limit activations <= {random.randint(1, 8)}", "limit activations <= 3 + r for rank r"
    )
    some(0.2, "activation = 2", "activation[s] = s + 1 for s in 0 .. main.stages")
    some(0.2 if split else 0, "activation after I = 1/2")
    some(0.2 if parts else 0, f"activation F{random.choice(parts or [''])} = 1")
    some(
        0.3,
        "minimize span",
        "minimize makespan under jitter 1/10",
        "minimize span under jitter 1/5",
    )
    rare = 0.02 if parts else 0.15
    some(rare, "reduce gradients", "reduce gradients cost 2", "reduce gradients cost s for stage s")
    some(rare, "unshard weights", "unshard weights cost 1", "unshard weights cost s for stage s")
    for _ in range(2 if many > 1 else 0):
        a, b = random.choice(kinds), random.choice(kinds)
        some(
            0.15,
            f"rule {a} main[0, 1] after {b} main[0, 0]",
            f"rule {a} main[0, 0] after {b} main[0, 1]",
        )
    return "\n".join(lines) + "\n"


def _pipelines(random: Random, ranks: int, many: int) -> Iterator[tuple[str, str]]:
    stages = random.randint(1, 2 * ranks)
    place = random.choice(
        [
            f"s -> s % {ranks}",
            f"s -> (s * 2 + 1) % {ranks}",
            "s -> 0",
            f"s -> min(s, {2 * ranks - 1} - s)",
        ]
    )
    kind = random.choice(["one", "one", "copies", "fed", "forward only", "models"])
    own = f"stages {stages} place {place}"
    if kind == "copies" and many > 1:
        yield "main", f"{own} microbatches 1"
        yield "up", f"replicates main microbatches {many - 1} place s -> {ranks - 1} - s % {ranks}"
    elif kind == "fed":
        passing = random.choice(["", " forward only"])
        fed = f"stages 2 place s -> s % {ranks} feeds main[{random.randrange(stages)}]{passing}"
        yield from [("main", own), ("side", fed)]
    elif kind == "models":
        yield "main", own
        yield "other", f'stages {random.randint(1, 2)} place s -> {ranks - 1} model "other"'
    else:
        yield "main", own + (" forward only" if kind == "forward only" else "")


def _parts(random: Random) -> str:
    on = [random.choice(["", " on comm"]) for _ in "abcd"]
    group = f"2 * (b{on[1]}, c{on[2]})" if random.random() < 0.4 else f"b{on[1]}"
    head = random.choice([f"a{on[0]}", f"a{on[0]} if s == 0"])
    return ", ".join(random.choice([[head, group], [group], [head, group, f"d{on[3]}"]]))


# ---------------------------------------------------------------------------- orders


def _order(declared: str, random: Random) -> str:
    """A random order of all operations, or of some beside `order auto`; seldom one that gets
    stuck. Nothing for a file that says nothing that can be ordered."""
    short = [
        "order rank r { F }",
        "order rank r { repeat microbatches { F }  repeat microbatches { B } }",
        "order rank r { F; F | B }",
    ]
    if random.random() < 0.2:
        return random.choice(short) + random.choice(["\n", "\norder auto\n"])
    try:
        spec = evaluate(parse(Source("random.pipe", declared)), FEW)
    except Rejected:
        return "order auto\n"
    rows = _lists(spec, random)
    partly = random.random() < 0.3
    blocks = []
    for rank, row in enumerate(rows):
        kept = [unit for unit in row if not partly or random.random() < 0.5]
        words = "; ".join(" | ".join(_mention(spec, one) for one in unit) for unit in kept)
        blocks.append(f"if r == {rank} {{ {words} }}")
    return f"order rank r {{ {' else '.join(blocks)} }}\n" + ("order auto\n" if partly else "")


def _lists(spec: Spec, random: Random) -> Sequence[Sequence[tuple[Operation, ...]]]:
    if spec.parts:
        return [[(one,) for one in row] for row in lists_at_random(spec, random)]
    pairs = 0.5 if spec.overlap else 0
    ordered = specs.random_order(spec, random, pairs, 0.5 if spec.split_backward else 0)
    rows = [[unit.operations for unit in row] for row in ordered.written]
    if random.random() < 0.1 and any(len(row) > 1 for row in rows):
        row = random.choice([row for row in rows if len(row) > 1])
        at = random.randrange(len(row) - 1)
        row[at : at + 2] = row[at + 1], row[at]
    return rows


def _mention(spec: Spec, one: Operation) -> str:
    name, places = one.kind, [str(one.stage), str(one.microbatch)]
    if one.slice >= 0:
        places.append(f"slice {one.slice}")
    if spec.parts:
        part = spec.parts[one.pipeline][one.stage][one.part]
        name += f".{part.name}"
        places += [f"layer {part.layer}"] if part.layer >= 0 else []
    return f"{name} {spec.pipelines[one.pipeline].name}[{', '.join(places)}]"
