"""What is said about mistakes: each case of `cases/errors` with its full rendering beside it
(`--update-cases` writes them anew; read the diff), every code with its examples, and hostile files.
"""

import ast
import json
import re
from fractions import Fraction
from pathlib import Path

import pytest

from stretto.compiler.diagnostics.codes import CODES, complete
from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label, Rejected
from stretto.compiler.diagnostics.render import FORMATS, render
from stretto.compiler.diagnostics.source import Source, Span
from stretto.compiler.diagnostics.suggest import nearest
from stretto.compiler.driver import compile_text
from stretto.compiler.evaluation import Settings, evaluate
from stretto.compiler.language.parse import parse
from stretto.compiler.order.budget import Budget
from tests.support.paths import CASES, ROOT

FILES = sorted((CASES / "errors").glob("*.pipe"))
MAIN = "schedule example ranks 4 microbatches 8\npipeline main { }\n"


def diagnostics(source: Source) -> tuple[Diagnostic, ...]:
    """What is wrong with a file, parse to prove; a first line `# --set …` sets parameters."""
    said = re.match(r"# --set (.*)", source.text)
    pairs = (pair.split("=") for pair in said[1].split()) if said else ()
    values = {name: Fraction(value) for name, value in pairs}
    try:
        compile_text(source.text, source.name, Settings(values=values), Budget(effort=0))
    except Rejected as rejected:
        return rejected.diagnostics
    return ()


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_what_is_said(path: Path, request: pytest.FixtureRequest) -> None:
    source = Source(path.name, path.read_text())
    told = render(diagnostics(source), [source])
    assert told, "nothing is wrong with this file"
    expected = path.with_suffix(".txt")
    if request.config.getoption("--update-cases"):
        expected.write_text(told)
    assert told == expected.read_text()


def test_three_mistakes_are_three_diagnostics() -> None:
    path = next(p for p in FILES if p.stem == "three-mistakes")
    assert len(diagnostics(Source(path.name, path.read_text()))) == 3


# ---- Codes

WITH_EXAMPLES = sorted(code for code, row in CODES.items() if row.wrong)


@pytest.mark.parametrize("code", WITH_EXAMPLES)
def test_examples_of_a_code(code: str) -> None:
    wrong, mended = (
        Source("example.pipe", complete(text)) for text in (CODES[code].wrong, CODES[code].mended)
    )
    assert {d.code for d in diagnostics(wrong)} == {code}
    evaluate(parse(mended))
    assert all(d.code in ("no-order", "not-yet") for d in diagnostics(mended))


def test_every_code_with_an_example_has_a_case() -> None:
    told = "\n".join(path.with_suffix(".txt").read_text() for path in FILES)
    assert set(WITH_EXAMPLES) <= set(re.findall(r"^error\[([a-z-]+)\]", told, re.MULTILINE))


RAISERS = {
    "Diagnostic",
    "SeldomMeant",
    "diagnosis",
    "eval_error",
    "finding",
    "fault",
    "refuse",
    "diagnostic",
}


def test_every_code_that_is_raised_is_in_the_table() -> None:
    raised = set()
    for path in (ROOT / "compiler").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                given = [*node.args[:1], *(k.value for k in node.keywords if k.arg == "code")]
                for code in given if name in RAISERS else []:
                    if isinstance(code, ast.Constant) and re.fullmatch("[a-z-]+", str(code.value)):
                        raised.add(code.value)
    assert raised <= set(CODES)
    assert set(CODES) <= raised, "a code that nothing raises"


# ---- Formats

SOURCE = Source("a,b.pipe", "one\ttwo \x1b[31m\nthree é 全角 four\n" + "x" * 500 + " y\n")
SOME = [
    Diagnostic(
        "unknown-name",
        "100% `\x1b` is\nnot defined",
        (
            Label(Span("a,b.pipe", 1, 5, 1, 8), "first\u202e"),
            Label(Span("a,b.pipe", 2, 12, 2, 16), "second"),
        ),
        ("a note\nwith two lines",),
        "type `x`",
    ),
    Diagnostic("damaged-plan", "no place", severity="warning"),
    Diagnostic("syntax", "far right", (Label(Span("a,b.pipe", 3, 502, 3, 503)),)),
]


def test_full() -> None:
    assert render(SOME, [SOURCE]) == (
        "error[unknown-name]: 100% `\\x1b` is\nnot defined\n"
        " --> a,b.pipe:1:5\n"
        "  |\n"
        "1 | one two \\x1b[31m\n"
        "  |     ^^^ first\\u202e\n"
        "2 | three é 全角 four\n"
        "  |              ---- second\n"
        "  |\n"
        "  = note: a note\n"
        "          with two lines\n"
        "  = help: type `x`\n"
        "\n"
        "warning[damaged-plan]: no place\n"
        "\n"
        "error[syntax]: far right\n"
        " --> a,b.pipe:3:502\n"
        "  |\n"
        "3 | ..." + "x" * 142 + " y\n"
        "  | " + " " * 146 + "^\n"
    )


def test_colour_adds_nothing_but_colour() -> None:
    coloured = render(SOME, [SOURCE], "full", colour=True)
    assert "\x1b[1;31m^" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == render(SOME, [SOURCE])


def test_concise() -> None:
    assert render(SOME, [SOURCE], "concise").splitlines() == [
        "a,b.pipe:1:5: error[unknown-name]: 100% `\\x1b` is not defined",
        "warning[damaged-plan]: no place",
        "a,b.pipe:3:502: error[syntax]: far right",
    ]


def test_github() -> None:
    assert render(SOME, [SOURCE], "github").splitlines()[:2] == [
        "::error title=stretto (unknown-name),file=a%2Cb.pipe,line=1,endLine=1,col=5,endColumn=7"
        "::100%25 `\\x1b` is%0Anot defined%0Aa note%0Awith two lines%0Ahelp: type `x`",
        "::warning title=stretto (damaged-plan)::no place",
    ]


def test_json() -> None:
    first, second, _ = json.loads(render(SOME, [SOURCE], "json"))
    keys = {"code", "severity", "message", "file", "line", "column", "end_line", "end_column",
            "help", "notes", "related"}  # fmt: skip
    assert set(first) == set(second) == keys
    assert (first["file"], first["line"], first["column"], first["end_column"]) == (
        "a,b.pipe", 1, 5, 8,
    )  # fmt: skip
    (related,) = first["related"]
    assert related["message"] == "second" and related["end_line"] == 2
    assert second["file"] is None and second["severity"] == "warning"
    assert json.loads(render([], [], "json")) == []


@pytest.mark.parametrize(
    ("word", "known", "found"),
    [
        ("warmpu", ["warmup", "ranks"], "warmup"),
        ("microbatchs", ["microbatches", "microbatch"], "microbatches"),
        ("dwon", ["down", "up"], "down"),
        ("Down", ["down", "up"], "down"),
        ("x", ["y", "r"], None),
        ("q", ["queue"], None),
        ("half", ["ranks", "microbatches"], None),
    ],
)
def test_near_misses(word: str, known: list[str], found: str | None) -> None:
    assert nearest(word, known) == found


# ---- Hostile files

LOOPS = "".join(f"for i{k} in 0 .. 1000 {{ " for k in range(8)) + "}" * 8
HOSTILE = {
    "nothing": "",
    "blanks": " \n\t\n",
    "byte order mark": "\ufeff" + MAIN,
    "crlf": MAIN.replace("\n", "\r\n"),
    "null": MAIN + "\0",
    "surrogate": MAIN + "# \ud800 \udfff",
    "bidi": MAIN + "# \u202e",
    "escape": MAIN + 'require 1 == 2, "\x1b[2J"',
    "comment": MAIN + "#" + "x" * 10_000_000,
    "statements": MAIN + "order rank r {" + "F\n" * 100_000 + "}",
    "lets": MAIN + "".join(f"let a{i} = b{i}\n" for i in range(15_000)),
    "parentheses": MAIN + "let a = " + "(" * 49_000 + "1" + ")" * 49_000,
    "open": MAIN + "let a = " + "([" * 20_000,
    "blocks": MAIN + "order rank r " + "{ repeat 1 " * 10_000,
    "closed": MAIN + "}" * 10_000,
    "sum": MAIN + "let a = " + " + ".join(["1"] * 5_000),
    "signs": MAIN + "let a = " + "- " * 5_000 + "1",
    "conditions of conditions": MAIN + "let a = " + "if " * 190 + "1 == 1" + " then 1 else 2" * 190,
    "subscripts of subscripts": MAIN + "let a = [0] let b = " + "a[" * 95 + "0" + "]" * 95,
    "calls of calls": MAIN + "let b = " + "min(" * 95 + "0" + ")" * 95,
    "lists of lists": MAIN + "let b = " + "[" * 190 + "0" + "]" * 190,
    "loops of loops": MAIN + "order rank r " + "{ repeat 1 { if 1 == 1 " * 18 + "{ }" + "} }" * 18,
    "conditions": MAIN + "let a = " + "if 1 == 1 then " * 3_000 + "1" + " else 2" * 3_000,
    "subscripts": MAIN + "let a = [1]" + "[0]" * 5_000,
    "digits": MAIN + "let a = " + "9" * 5_000,
    "squares": MAIN + "let a0 = 10\n" + "".join(f"let a{i+1} = a{i} * a{i}\n" for i in range(99)),
    "fractions": MAIN + "let a0 = 1/3\n"
    + "".join(f"let a{i+1} = a{i} * a{i} + 1/7\n" for i in range(99)),
    "lists": MAIN + "let a0 = [1]\n" + "".join(f"let a{i+1} = [a{i}, a{i}]\n" for i in range(99))
    + "require a99 == 1",
    "zero": MAIN + "let a = 1 / 0 let b = 1 // 0 let c = 1 % 0",
    "no ranks": MAIN.replace("ranks 4", "ranks 0"),
    "many ranks": MAIN.replace("ranks 4", "ranks 10000000"),
    "many micro-batches": MAIN.replace("microbatches 8", "microbatches 1000000000"),
    "many stages": MAIN.replace("{ }", "{ stages 1000000000 }"),
    "many slices": MAIN + "split microbatch into 1000000000 slices",
    "outside": MAIN.replace("{ }", "{ place s -> 9 }"),
    "negative": MAIN + "order rank r { repeat -1 { F } }",
    "repeat": MAIN + "order rank r { repeat 1000000000 { F } }",
    "repeat enough": MAIN + "order rank r { repeat 3000000 { F } }",
    "nested": MAIN + f"order rank r {{ {LOOPS} }}",
    "queue": MAIN + "order rank r { queue q = F[r, m] for m in 0 .. 1000000000 }",
    "queue block": MAIN + f"order rank r {{ queue q {{ {LOOPS} }} }}",
    "costs": MAIN + "cost F[s, m] = 1 for s in 0 .. 100000, m in 0 .. 100000",
    "rules": MAIN + "rule F[s, m] after F[s, 0] for s in 0 .. 100000, m in 0 .. 100000",
    "names": MAIN + "let größe = 1 let Ｆ = 2 let 😀 = 3",
    "long name": MAIN + "let " + "a" * 900_000 + " = b",
    "long text": MAIN + 'require 1 == 2, "' + "x" * 900_000 + '"',
    "quotes": MAIN + '"' * 50_000,
    "bytes": "".join(map(chr, range(256))) * 100,
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.timeout(30)
def test_hostile_files_get_an_answer(name: str) -> None:
    source = Source("hostile.pipe", HOSTILE[name])
    try:
        evaluate(parse(source))
    except Rejected as rejected:
        assert rejected.diagnostics
        for format_ in FORMATS:
            told = render(rejected.diagnostics, [source], format_)
            told.encode()  # no half of a surrogate pair is left
            assert not re.search("[\x00-\x08\x0e-\x1f\u202a-\u202e]", told)
            assert len(told) < 10**6
    else:
        assert name in ("byte order mark", "crlf", "sum") or " of " in name


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ranks 2", "`ranks` stands twice"),
        ("transfer 1", "`transfer` stands twice"),
        ("order auto", "`order auto` stands twice"),
        ("let a = 1", "`a` is defined already"),
        ("cost F = 1 / 0", "this divides by zero"),
        ("cost F[9] = 1", "`main` has no stage 9"),
        ("rule F[9, 1] after F[0, 0]", "`main` has no stage 9"),
        ("limit activations <= -1", "an amount of memory cannot be -1"),
    ],
)
@pytest.mark.parametrize("many", [5, 1000])
def test_a_statement_that_stands_often_is_told_once_with_a_count(
    line: str, message: str, many: int
) -> None:
    """Few are told one by one: each is a place to look at."""
    text = MAIN + f"{line}\n" * many
    found = [d for d in diagnostics(Source("many.pipe", text)) if message in d.message]
    assert found
    places = {label.span.line for d in found for label in d.labels[:1]}
    if many == 5:
        assert len(found) == len(places) >= 4
        return
    assert len(found) == 1
    (note,) = [note for note in found[0].notes if "more like it" in note]
    assert int(note.split()[0].replace(",", "")) >= many - 3
