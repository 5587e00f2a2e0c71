"""Parsing: random syntax printed and read again, places that point at what they say, words that may
be names, and every mistake of a file at once."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from lark import Lark
from lark.parsers.lalr_analysis import Shift
from msgspec import Struct

from stretto import grammar
from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.language import explain, lookahead
from stretto.compiler.language import syntax as s
from stretto.compiler.language.build import NODES, builders
from stretto.compiler.language.hints import HINTS
from stretto.compiler.language.parse import parse, parse_costs
from tests.support import printed
from tests.support.paths import ROOT

LIBRARY = sorted((ROOT / "schedules").glob("*.pipe"))
TABLE = Path(grammar.__path__[0]) / "table.json"
AROUND = "schedule example\n"


def read(text: str) -> s.Schedule:
    return parse(Source("example.pipe", text))


def mistakes_in(text: str) -> list[str]:
    try:
        read(text)
    except Rejected as rejected:
        return [d.message for d in rejected.diagnostics]
    return []


def mistakes(text: str) -> list[str]:
    with pytest.raises(Rejected) as caught:
        read(text)
    return [f"{d.labels[0].span.line}: {d.code}: {d.message}" for d in caught.value.diagnostics]


@given(printed.SCHEDULES)
@settings(max_examples=150, deadline=None)
def test_what_is_printed_reads_the_same(schedule: s.Schedule) -> None:
    assert printed.bare(read(printed.schedule(schedule))) == printed.bare(schedule)


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: p.stem)
def test_the_library_reads_the_same_when_printed(path: Path) -> None:
    schedule = read(path.read_text())
    assert printed.bare(read(printed.schedule(schedule))) == printed.bare(schedule)


# What stands at a node's place in the text.
LOOKS: dict[type, str] = {
    s.Word: r"\w+",
    s.Name: r"\w+",
    s.Mention: r"[FBIW].*",
    s.Next: r"next.*",
    s.Repeat: r"repeat.*\}",
    s.Loop: r"for.*\}",
    s.If: r"if.*\}",
    s.Let: r"let.*",
    s.Queue: r"queue.*=.*for.*",
    s.Block: r"\{.*\}",
    s.Pipeline: r"pipeline.*\}",
    s.Pair: r".*\|.*",
    s.Cost: r"cost.*",
    s.Limit: r"limit.*",
    s.Call: r"\w+\(.*\)",
    s.Range: r"\w+ in .*",
    s.OrderRank: r"order.*\}",
    s.Require: r"require.*",
}


def nodes(node: Any) -> Any:
    if isinstance(node, Struct):
        yield node
        for field in node.__struct_fields__:
            if field not in ("span", "source"):
                yield from nodes(getattr(node, field))
    elif isinstance(node, tuple):
        for one in node:
            yield from nodes(one)


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: p.stem)
def test_places_point_at_what_they_say(path: Path) -> None:
    text = path.read_text().replace("\n", "\r\n")  # columns do not depend on how lines end
    lines = text.split("\n")
    for node in nodes(read(text).statements):
        _, line, column, end_line, end_column = node.span
        there = lines[line - 1 : end_line]
        there[-1] = there[-1][: end_column - 1]
        there[0] = there[0][column - 1 :]
        said = "\n".join(there)
        assert said == said.strip()
        if isinstance(node, s.Number) and said.isdigit():
            assert int(said) == node.value
        if type(node) in LOOKS:
            assert re.fullmatch(LOOKS[type(node)], said, re.DOTALL), (node, said)
        if isinstance(node, s.Word | s.Name):
            assert node.text == said


def test_parentheses_belong_to_what_they_hold() -> None:
    (_, let) = read(AROUND + "let a = (1 + 2) * 3").statements
    assert isinstance(let, s.Let) and isinstance(let.value, s.Chain)
    assert let.value.span[1:] == (2, 9, 2, 20)
    assert let.value.first.span[1:] == (2, 9, 2, 16)


def test_every_rule_of_the_grammar_is_built_and_every_node_is_made() -> None:
    rules = {
        str(rule.alias or rule.origin.name)
        for rule in Lark(grammar.grammar(), **grammar.OPTIONS).rules
        if rule.alias or not rule.options.expand1 or len(rule.expansion) > 1
    }
    rules = {name for name in rules if not name.startswith("__")}
    assert rules == vars(builders("x.pipe")).keys()
    classes = {v for v in vars(s).values() if isinstance(v, type) and issubclass(v, Struct)}
    made = {*NODES.values(), s.Word, s.Chain}  # of tokens; by `sum` and `product`
    assert classes - {Struct, s.Schedule, s.CostFile} == made


def test_what_is_said_of_mistakes_knows_the_words_of_the_grammar() -> None:
    """The words that begin a statement of a list are those that the parser takes there."""
    first: dict[str, set[str]] = {rule: set() for rule in lookahead.LISTED}
    states = grammar.parser(builders("x.pipe")).parse_interactive("", start="schedule")
    for actions in states.parser_state.parse_conf.states.values():
        kinds = {k for k, (action, _) in actions.items() if k.isupper() and action is Shift}
        words = {w for kind in kinds for w in ("FBIW" if kind == "KIND" else (kind.lower(),))}
        for rule in lookahead.LISTED & actions.keys():
            first[rule] |= words - {"semicolon", "rbrace"}
    assert set().union(*first.values()) == lookahead.STARTS
    assert first["property"] - first["statement"] == explain.PROPERTIES
    assert first["step"] - first["statement"] == explain.STEPS
    name = re.search(r"^NAME: /\(\?!\((.*?)\)\\b", grammar.grammar(), re.MULTILINE)
    assert name and set(name[1].split("|")) == explain.RESERVED


def test_the_kept_table_is_the_grammars() -> None:
    kept, made = (json.loads(x) for x in (TABLE.read_text(), grammar.make_table()))
    assert kept["made"] == made["made"], "`python -m stretto.grammar` makes it anew"
    assert grammar._table() is not None
    slow = Lark(grammar.grammar(), transformer=builders("x.pipe"), **grammar.OPTIONS)
    for path in LIBRARY:
        text = path.read_text()
        assert slow.parse(text, start="schedule") == parse(Source("x.pipe", text)).statements


@pytest.mark.parametrize("name", ["chunks", "forward", "rank", "cost", "split", "on", "KiB", "_a1"])
def test_words_of_statements_may_be_names(name: str) -> None:
    text = f"schedule {name} param {name} = 1 let b = {name} + {name} order rank r {{ F {name} }}"
    assert len(read(text).statements) == 4


@pytest.mark.parametrize(
    "name", ["F", "let", "repeat", "for", "if", "then", "next", "stages", "layer", "max"]
)
def test_reserved_words_may_not(name: str) -> None:
    assert mistakes(f"schedule example\nlet {name} = 1\n") == [
        f"2: syntax: `{name}` is a word of the language and cannot be a name"
    ]


def test_numbers_are_exact() -> None:
    text = AROUND + "let a = 0.1\nlet b = 20 GiB\nlet c = 1.5 KiB\nlet d = 3.0\n"
    lets = [x.value for x in read(text).statements if isinstance(x, s.Let)]
    values = [x.value for x in lets if isinstance(x, s.Number)]
    assert values[0] * 10 == 1 and values[1:] == [20 * 1024**3, 1536, 3]
    assert isinstance(values[3], int)


def test_a_file_of_costs_has_costs_only() -> None:
    costs = parse_costs(Source("c", "cost F = 2 activation[0] = 3\ntransfer 1/2"))
    assert [type(x) for x in costs.statements] == [s.Cost, s.Activation, s.Transfer]
    with pytest.raises(Rejected) as caught:
        parse_costs(Source("c", "cost F = 2\nranks 4\ncost B = 3\nlet a = 1\n"))
    assert [d.labels[0].span.line for d in caught.value.diagnostics] == [2, 4]
    first = caught.value.diagnostics[0]
    assert first.message == "`ranks` cannot stand in a file of costs"
    assert first.help == "it holds only `cost`, `activation` and `transfer` statements"


# A line as somebody may write it, and what is to be said about it.
HINTED = [
    ("// a comment, {", "a comment begins with `#`"),
    ("ranks 4 // that is { enough", "a comment begins with `#`: `//` divides"),
    ("half = 4", "to name a value: `let half = …`"),
    ("micro-batches 8", "did you mean `microbatches`?"),
    ("microbatch 8", "did you mean `microbatches`?"),
    ("rank 4", "did you mean `ranks`?"),
    ("ranks 4, microbatches 8", "no comma stands between statements"),
    ("activation = 20 GB", "sizes are in `KiB`, `MiB`, `GiB` or `TiB`"),
    ("transfer 1e", "an exponent is a whole number: `1.2e-05`"),
    ("let 1st = 2", "names begin with a letter"),
    ("param warm-up = 2", "names have no `-`: `warm_up`"),
    ("order rank r { repeat 4 F }", "`repeat 4 { F }`"),
    ("pipeline a { let b = 2 }", "`let` stands outside of the block of `pipeline`"),
    ("order rank r { ranks 3 }", "`ranks` stands outside of all blocks"),
    ("pipeline a { F }", "`F` stands inside the block of `order rank`"),
    ("let a = 2 ahead", "to multiply: `2 * ahead`"),
    ("let a = 2 (ranks + 1)", "to multiply: `2 * (…)`"),
    ("let a = 2.5e-3 ahead", "to multiply: `2.5e-3 * ahead`"),
    ("cost F = 18522.083749ms", "times have no unit, and all are in one: `18522.083749`"),
    ("cost F = 1.2e-05 s", "times have no unit, and all are in one: `1.2e-05`"),
    ("activation = 3 bytes", "sizes are in `KiB`, `MiB`, `GiB` or `TiB`"),
    ("cost F = 1.", "a digit stands behind the point: `1.0`"),
    ("cost F = 2.e-05", "a digit stands behind the point: `2.0`"),
    ("cost F = .5", "a digit stands before the point: `0.5`"),
    ("cost F = 1_000", "a number has digits alone, without `_`"),
    ("cost F = 0x10", "numbers are decimal"),
    ("cost F = 1,5", "a decimal has a point: `1.5`"),
    ('cost F = "2"', "a number stands without quotes; texts stand behind `require`"),
    ("0F0,0F1,0B0", "is it another system's table? `--from SYSTEM` reads it, such as "
     "`--from torch-csv`"),
    ("order r { F }", "`order rank r {`"),
    ("order rank { F }", "the rank needs a name: `order rank r {`"),
    ("order rank r { ahead = 4 }", "to name a value: `let ahead = …`"),
    ("order rank r { repeat 4 { f } }", "operations are capital letters: `F`, `B`, `I` and `W`"),
    ("order rank r { F // then { }", "a comment begins with `#`"),
    ("order rank r { while r < 3 { F } }",
     "loops are `repeat n { … }` and `for i in a .. b { … }`"),
    ("order rank r { repeat 4 { F, B } }", "separate operations with `;`"),
    ("order rank r { repeat 4 times { F } }", "`repeat 4 { … }`"),
    ("order rank r { for i in range(4) { F } }", "a range is `a .. b`, without b"),
    ("order rank r { for i in ranks { F } }", "a range is `a .. b`, without b: `0 .. ranks`"),
    ("cost mlp = 2", "of an operation, `cost F = …`; of a part, `cost F.mlp = …`"),
    ("cost F.a on comm = 2", "on which stream a part runs, `split F into` says, and nothing else"),
    ("cost F.mlp layer 1 = 2", "`F.mlp[layer 1]`"),
    ("order rank r { W?.mlp[0] layer 1 }", "`W?.mlp[layer 1]`"),
    ("cost F.mlp[0, layer] = 2", "a number says which: `F.mlp[layer 0]`"),
    ("order rank r { F.mlp? }", "`F?.mlp`"),
    ("order rank r { F.mlp(2) }", "`F.mlp[0, 3]`"),
    ("cost I.2 = 2", "a part has a name, `I.mlp`; `I` stands for all of them"),
    ("cost F.mlp.send = 2", "one part stands behind an operation: `F.mlp`"),
    ("rule F.mlp after B.mlp", "a rule names operations: `rule F.mlp[s, m] after …`"),
    ("order rank r { F(0) }", "operations are written `F main[0, 3]`; the functions are `min`, "
     "`max`, `abs`, `ceil`, `floor` and `len`"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "help_"), HINTED, ids=[line for line, _ in HINTED])
def test_what_to_type_instead(line: str, help_: str) -> None:
    with pytest.raises(Rejected) as caught:
        read(f"schedule example\n{line}\n{'}' * (line.count('{') - line.count('}'))}\n")
    assert caught.value.diagnostics[0].help == help_


def test_every_hint_has_its_line() -> None:
    said = {help_ for _, help_ in HINTED}
    patterns = [re.escape(h.help.format("?", "?")).replace(r"\?", r"[\w.?]+") for h in HINTS]
    assert all(any(re.fullmatch(p, help_) for help_ in said) for p in patterns)


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: p.stem)
def test_where_braces_balance_no_brace_is_missing(path: Path) -> None:
    text = path.read_text()
    for word in re.finditer(r"^ *(\w+)", text, re.MULTILINE):
        for wrong in ("whlie ", "order ", "stages ", f"// it's {{\n{word[1]}"):
            told = mistakes_in(text[: word.start(1)] + wrong + text[word.end(1) :])
            assert not any("missing" in x or "closes nothing" in x for x in told), told


# Each line with a number behind `# !` has one mistake, which is told once.
WRONG = [
    """schedule example
ranks 4 5                       # !
microbatchs 8                   # !
pipeline main {
  stage 4                       # !
  place s = s                   # !
  microbatches 8
}
split B into W, I               # !
overlap B | F                   # !
""",
    """schedule example
order rank r {
  let for = 3                   # !
  repeat 3 F                    # !
  F near | B far
  let x = (1 +* 3)              # !
  F B                           # !
  B | F
  if a = b { F }                # !
  let y = a < b < c             # !
  queue q = F[c +* 3]           # !
     for g in 0 .. 3, c in 0 .. 2
  let z = a && b                # !
  Repeat 3 { F }                # !
  F[0, 1, 2]                    # !
  F?.part; F.part[layer 2]; W | B
  F.a | B                       # !
  F[layer 2]                    # !
}
cost F? = 1                     # !
cost F | W = 1                  # !
activation[1, 2] = 3            # !
activation F = 3                # !
activation I.mlp = 3            # !
activation F.mlp[0, 1] = 3      # !
split B into a, b               # !
split F into 2 * (a, 2 * (b))   # !
activation F.mlp[layer 1, 0]=3  # !
rule F.a[0, 1, layer 2] after F.b[0, slice 1, 2] # !
""",
    """schedule example
ranks 4
order rank r {
  repeat 3 { F
}
pipeline main { }               # !
""",
]


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_every_mistake_is_told_once_and_no_other(text: str) -> None:
    expected = [n for n, line in enumerate(text.split("\n"), 1) if line.endswith("# !")]
    told = mistakes(text)
    assert [int(x.split(":")[0]) for x in told] == expected, told
