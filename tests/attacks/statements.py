"""Texts of one statement many times: `text(name, n)` for every name of `NAMES`. They are valid
where they can be; in the others all n are wrong, or what they name is nowhere."""

from collections.abc import Callable

HEAD = "schedule many ranks 2 microbatches 2\n"
PIPE = "pipeline main { stages 2 place s -> s }\n"
ORDER = "order rank r { repeat microbatches { F }  repeat microbatches { B } }\n"
CUT = "split F into a, 40 * (b, c on comm)\n"

LINES = {  # `@` is the number of the line
    "overlap": "overlap F | B",
    "overlap nothing": "overlap F | x@",
    "slices": "split microbatch into 2 slices",
    "split B": "split B into I, W",
    "split F": "split F into a, b",
    "cost": "cost F = @",
    "cost of a stage": "cost F[@ % 2] = 1/(@ + 1)",
    "cost of nothing": "cost F[@ + 2] = 1",
    "cost of an unknown pipeline": "cost F p@[0] = 1",
    "cost of a pair": "cost F | B = max(F, B)",
    "cost in a loop": "cost F[s] = 1 for s in 0 .. 2",
    "cost in an endless loop": "cost F[s] = 1 for s in 0 .. 1000000000",
    "cost below nothing": "cost F = -@",
    "cost by zero": "cost F = 1 / 0",
    "activation": "activation = @",
    "activation of nothing": "activation[@ + 2] = 1",
    "activation after": "activation after I = 1/2",
    "transfer": "transfer 1",
    "limit": "limit activations <= 2 + 1/(@ + 1)",
    "limit of ranks": "limit activations <= 2 for rank r",
    "minimize": "minimize span",
    "jitter": "minimize makespan under jitter @ + 2",
    "reduce": "reduce gradients cost 1",
    "unshard": "unshard weights cost 1",
    "rule": "rule F[0, 1] after F[0, 0]",
    "rule in a circle": "rule F[0, @ % 2] after F[0, (@ + 1) % 2]",
    "rule of nothing": "rule F[@ + 2, 1] after F[0, 0]",
    "rule in a loop": "rule F[0, i] after F[0, i + 10] for i in 0 .. 1000",
    "order": "order rank r { F; F; B; B }",
    "order auto": "order auto",
    "let": "let a@ = 1",
    "let again": "let a = 1",
    "let unknown": "let a@ = b@",
    "let itself": "let a@ = a@",
    "param": "param p@ = @",
    "require": "require 1 == 1",
    "require in vain": 'require ranks == @ + 9, "why @"',
    "require unknown": "require x@ == 1",
    "ranks": "ranks 2",
    "microbatches": "microbatches 2",
    "schedule": "schedule s@",
    "a pipeline": "pipeline p@ { microbatches 2 }",
    "a copy": "pipeline p@ { replicates main }",
    "a copy of nothing": "pipeline p@ { replicates q@ }",
    "a feed": "pipeline p@ { feeds q@[0] }",
    "a place": "pipeline p@ { place s -> s + @ }",
    "a question": "?",
    "a brace": "}",
    "an open brace": "pipeline p {",
    "a semicolon": ";",
    "a comment": "# @",
    "a string": '"@"',
}
PART_LINES = {
    "cost of parts": "cost F.b = 2",
    "cost of a layer": "cost F.b[layer @ % 40] = 2",
    "cost of layers": "cost F.b[layer l] = 2 for l in 0 .. 40",
    "cost of unknown parts": "cost F.x@ = 2",
    "activation of parts": "activation F.b = 2",
    "rule of parts": "rule F.a[0, 1] after F.a[0, 0]",
}
STEPS = {
    "F": "F",
    "F if any": "F?",
    "F of nothing": "F[@ + 2, 0]",
    "F unknown": "F x@[0, 0]",
    "F again": "F[r, 0]",
    "a pair": "F | B",
    "repeat": "repeat 0 { F }",
    "repeat endless": "repeat 1000000000000 { }",
    "repeat below nothing": "repeat -@ - 1 { F }",
    "for": "for i in 0 .. 0 { F }",
    "if": "if r == 5 { F }",
    "let in an order": "let a@ = 1",
    "let unknown in an order": "let a@ = b@",
    "queue": "queue q@ = F[0, i] for i in 0 .. 2",
    "queue endless": "queue q@ = F[0, i] for i in 0 .. 1000000000",
    "queue block": "queue q@ { F; B }",
    "next of nothing": "next q@",
}
PARTS = {  # many of these after `split F into`
    "parts": "a@",
    "parts of one name": "a",
    "parts on streams": "a@ on s@",
    "parts on one stream": "a@ on comm",
    "parts on two streams": "a@, b@ on comm",
    "parts if": "a@ if stages == 2",
    "parts if unknown": "a@ if x@ == 2",
    "groups": "1 * (a@, b@ on comm)",
    "groups of none": "0 * (a@), b@",
}


def joined(pattern: str, n: int, between: str = "\n") -> str:
    """The pattern n times, each with its number."""
    return between.join([pattern.replace("@", str(i)) for i in range(n)])


def _numbered(text: str) -> Callable[[int], str]:
    return lambda n: text.replace("@", str(n))


def _doubled(n: int) -> str:
    lists = "\n".join(f"let a{i + 1} = [a{i}, a{i}]" for i in range(n))
    return f"{HEAD}let a0 = [1]\n{lists}\n{PIPE}cost F = a{n}\n{ORDER}"


def _ring(n: int) -> str:
    rows = [f"pipeline p{i} {{ microbatches 2 feeds p{(i + 1) % n}[0] }}" for i in range(n)]
    return HEAD.replace("s 2\n", f"s {2 * n}\n") + "\n".join(rows) + "\norder auto"


def _around(n: int, before: str, many: str, between: str, behind: str) -> str:
    return f"{HEAD}{PIPE}{before}{joined(many, n, between)}{behind}\n{ORDER}"


def _ranges(n: int, last: int) -> str:
    return _around(n, "cost F[0] = 1 for ", f"i@ in 0 .. {last}", ", ", "")


CHAIN = "pipeline main { stages ranks place s -> s }\n"
BENT = "pipeline main { stages 2*ranks place s -> min(s, 2*ranks - 1 - s) }\n"
RANKS = "schedule many ranks @ microbatches 2\n"
CELLS = "schedule many ranks 2 microbatches @\n"
SLICES = f"{HEAD}{PIPE}split microbatch into @ slices\n"
INSIDE = "repeat microbatches {{ {} }} repeat microbatches {{ {} }}"
OTHERS: dict[str, Callable[[int], str]] = {
    "many slices": _numbered(
        SLICES + "order rank r { repeat @ * microbatches { F } repeat @ * microbatches { B } }"
    ),
    "slices by name": _numbered(
        CELLS + PIPE + "split microbatch into 2 slices\norder rank r { "
        + INSIDE.format("F[slice 0]; F[slice 1]", "B[slice 1]; B[slice 0]") + " }"
    ),
    "slices by name, apart": _numbered(
        CELLS + PIPE + "split B into I, W split microbatch into 2 slices\norder rank r { "
        + INSIDE.format("F[slice 0]; F[slice 1]", "I; I")
        + INSIDE.format("W[slice 0]", "W[slice 1]") + " }"
    ),
    "stages": _numbered(
        f"{HEAD}pipeline main {{ stages @ place s -> s * 2 // @ }}\norder rank r {{ "
        "for m in 0 .. 2, s in 0 .. @ { if s * 2 // @ == r { F[s, m] } } "
        "for m in 0 .. 2, s in 0 .. @ { if (@ - 1 - s) * 2 // @ == r { B[@ - 1 - s, m] } } }"
    ),
    "layers": _numbered(f"{HEAD}{PIPE}split F into @ * (a, b on comm)\n{ORDER}"),
    "ranks that work": _numbered(RANKS + CHAIN + ORDER),
    "ranks with two stages": _numbered(
        f"{RANKS}{BENT}split B into I, W\norder rank r {{ let t = 2 * ranks - 1 - r\n"
        "for m in 0 .. 2 { F[r, m]; F[t, m] } for m in 0 .. 2 { I[t, m]; W; I[r, m]; W } }"
    ),
    "ranks with limits": _numbered(f"{RANKS}{CHAIN}limit activations <= 2 + r for rank r\n{ORDER}"),
    "ranks that wait in a circle": _numbered(
        RANKS + CHAIN + "order rank r { for m in 0 .. 2 { let k = if r % 2 == 0 then m else 1 - m; "
        "F[r, k]; B[r, k] } }"
    ),
    "ranks that do nothing": _numbered(f"{RANKS}{CHAIN}order rank r {{ }}"),
    "transfers": _numbered(f"{RANKS}{CHAIN}transfer 1 / (a - a) for rank a -> b\n{ORDER}"),
    "micro-batches": _numbered(CELLS + PIPE + ORDER),
    "parts in any order": _numbered(
        f"{CELLS}{PIPE}split F into a, d on comm, b split B into I, W\norder auto"
    ),
    "rules": _numbered(
        f"{CELLS}{PIPE}rule F[1, m] after F[0, m] for m in 0 .. microbatches\n{ORDER}"
    ),
    "rules that nothing keeps": _numbered(
        f"{CELLS}{PIPE}rule F[0, m] after F[1, m - 1] for m in 1 .. microbatches\n"
        "order rank r { repeat microbatches { F; B } }"
    ),
    "a limit that is exceeded": _numbered(f"{CELLS}{PIPE}limit activations <= 3\n{ORDER}"),
    "rounds": _numbered(f"{HEAD}{PIPE}order rank r {{ repeat 100 * @ {{ F?; B? }} }}"),
    "doubled lists": _doubled,
    "a ring": _ring,
    "ranges of one": lambda n: _ranges(n, 1),
    "ranges of none": lambda n: _ranges(n, 0),
    "a sum": lambda n: _around(n, "let a = ", "1", " + ", ""),
    "a list": lambda n: _around(n, "let a = [", "@", ", ", "]"),
    "a list that is none": lambda n: _around(n, "let a = [", "@", ", ", "] + 1"),
    "a condition": lambda n: _around(n, "let a = ", "1 == 1", " and ", ""),
    "an if": lambda n: _around(n, "let a = ", "if 1 == 2 then @", " else ", " else 0"),
    "a maximum": lambda n: _around(n, "let a = max(", "@", ", ", ")"),
    "comparisons": lambda n: _around(n, "let a = ", "1", " < ", ""),
    "parentheses": lambda n: f"{HEAD}{PIPE}let a = {'(' * n}1{')' * n}\n{ORDER}",
    "brackets": lambda n: f"{HEAD}{PIPE}let a = {'[' * n}1{']' * n}\n{ORDER}",
    "signs": lambda n: f"{HEAD}{PIPE}let a = {'- ' * n}1\n{ORDER}",
    "digits": lambda n: f"{HEAD}{PIPE}let a = {'1' * n}\n{ORDER}",
    "letters": lambda n: f"{HEAD}{PIPE}let {'a' * n} = 1\n{ORDER}",
    "properties": lambda n: f"{HEAD}pipeline main {{ {'stages 2 ' * n} }}\n{ORDER}",
    "else if": lambda n: (
        f"{HEAD}{PIPE}order rank r {{ if r == 5 {{ F }} "
        + joined("else if r == @ + 7 { F }", n, " ") + f" else {{ {ORDER[15:-3]} }} }}"
    ),
}  # fmt: skip
NAMES = [*LINES, *PART_LINES, *STEPS, *PARTS, *OTHERS]


def text(name: str, n: int) -> str:
    """A schedule with so many of what the name says."""
    if name in LINES:
        return HEAD + PIPE + joined(LINES[name], n) + "\n" + ORDER
    if name in PART_LINES:
        return HEAD + PIPE + CUT + joined(PART_LINES[name], n) + "\n" + ORDER
    if name in STEPS:
        return f"{HEAD}{PIPE}order rank r {{ {joined(STEPS[name], n, '; ')} }}"
    if name in PARTS:
        return f"{HEAD}{PIPE}split F into {joined(PARTS[name], n, ', ')}\n{ORDER}"
    return OTHERS[name](n)
