"""`split F into …`: chains, costs, memory and rules of stages that are cut into parts."""

from fractions import Fraction
from itertools import product

import networkx
import pytest
from msgspec.structs import replace

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.evaluation import Settings, evaluate
from stretto.compiler.language.parse import parse, parse_costs
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Spec, show
from tests.support import parts

HEAD = "schedule example ranks {ranks} microbatches 4\npipeline main {{ }}\n"


def spec(text: str, ranks: int = 2, costs: str | None = None, **values: int) -> Spec:
    file = parse_costs(Source("costs", costs)) if costs is not None else None
    given = {name: Fraction(value) for name, value in values.items()}
    source = Source("example.pipe", HEAD.format(ranks=ranks) + text)
    return evaluate(parse(source), Settings(values=given, costs=file))


def refused(text: str, ranks: int = 2, **values: int) -> list[str]:
    with pytest.raises(Rejected) as caught:
        spec(text, ranks, None, **values)
    return [f"{d.code}: {d.message}" for d in caught.value.diagnostics]


def chain(found: Spec, stage: int, pipeline: int = 0) -> str:
    """`a0 b0@comm`: the chain of a stage, each part with its layer and stream."""
    return " ".join(
        part.name
        + ("" if part.layer < 0 else str(part.layer))
        + (f"@{found.streams[part.stream]}" if part.stream else "")
        for part in found.parts[pipeline][stage]
    )


DSV3 = """
split F into 2 * (att, disp on comm, mlp, comb on comm)
split B into I, W
cost F.att = 48 cost F.disp = 61 cost F.mlp = 43 cost F.comb = 73
cost I.att = 92 cost I.disp = 73 cost I.mlp = 57 cost I.comb = 44
cost W.att = 24 cost W.mlp = 53
"""


def test_a_file_means_what_was_made_by_hand() -> None:
    found = spec(DSV3, ranks=3)
    made = parts.parts_spec(3, 4, costs="dsv3", layers=2)
    assert (found.streams, found.parts) == (made.streams, made.parts)
    for a, b in zip(found.pipelines[0].stages, made.pipelines[0].stages, strict=True):
        assert replace(a, rank=0) == replace(b, rank=0)


def test_what_is_there_is_decided_stage_by_stage() -> None:
    text = """
    let dense = [1, 1, 2]
    split F[s] into embedding if s == 0,
                    dense[s] * (self on host if s > 0, feed),
                    (stages - s - 1) * (a, b on comm, c on host) if s < 1,
                    output if s == stages - 1, loss on comm if s == stages - 1
    """
    found = spec(text, ranks=3)
    assert found.streams == ("compute", "host", "comm")
    assert chain(found, 0) == "embedding feed0 a0 b0@comm c0@host a1 b1@comm c1@host"
    assert chain(found, 1) == "self0@host feed0"
    assert chain(found, 2) == "self0@host feed0 self1@host feed1 output loss@comm"


def figures(found: Spec, stage: int = 0) -> list[tuple[int | Fraction, ...]]:
    """F, B, I, W and activation of each part, in units of the file."""
    time, size = found.time_unit, found.size_unit
    return [
        (*(Fraction(x, time) for x in row[:4]), Fraction(row.activation, size))
        for row in found.pipelines[0].stages[stage].parts
    ]


CHAIN = "split F into 2 * (a, b on comm), c\n"


def test_what_nobody_says_costs_what_the_language_says() -> None:
    text = CHAIN + "cost F.a = 3 cost I.a[layer 1] = 1/2 cost W.c = 5\n"
    split = spec(text + "split B into I, W\n")
    half = Fraction(1, 2)
    assert figures(split) == [
        (3, 0, 3, 3, 0), (1, 0, 1, 0, 0), (3, 0, half, 3, 0), (1, 0, 1, 0, 0), (1, 0, 1, 5, 0),
    ]  # fmt: skip
    whole = spec(text)
    assert [row[1] for row in figures(whole)] == [6, 1, 3 + half, 1, 6]
    assert {row[2:4] for row in figures(whole)} == {(0, 0)}
    for found in (split, whole):
        stage = found.pipelines[0].stages[0]
        for kind in "FIW":
            assert getattr(stage, kind) == sum(getattr(row, kind) for row in stage.parts)
        assert sum(row.B for row in stage.parts) == stage.B or stage.I + stage.W == stage.B
    told = spec(text + "cost B.a[1, layer 0] = 7\n")
    assert [row[1] for row in figures(told, 1)] == [7, 1, 3 + half, 1, 6]
    assert figures(told) == figures(whole)


def test_single_microbatches_and_what_follows_from_them() -> None:
    text = (
        CHAIN + "split B into I, W cost F.a[1, 3] = 2 cost I.b[0, 2, layer 1] = 4 cost W.a[1] = 9\n"
    )
    found = spec(text)
    assert {show(found, o): ticks for o, ticks in found.exceptions} == {
        "F.a main[1, 3, layer 0]": 2, "F.a main[1, 3, layer 1]": 2,
        "I.a main[1, 3, layer 0]": 2, "I.a main[1, 3, layer 1]": 2,
        "I.b main[0, 2, layer 1]": 4,
    }  # fmt: skip
    whole = spec(CHAIN + "cost F.c[0, 1] = 5 cost W.c[0, 2] = 3 cost F.b[0, 0] = 2\n")
    assert {show(whole, o): ticks for o, ticks in whole.exceptions} == {
        "F.c main[0, 1]": 5, "B.c main[0, 1]": 10, "B.c main[0, 2]": 4,
        "F.b main[0, 0, layer 0]": 2, "F.b main[0, 0, layer 1]": 2,
        "B.b main[0, 0, layer 0]": 2, "B.b main[0, 0, layer 1]": 2,
    }  # fmt: skip


def test_the_last_that_fits_counts() -> None:
    text = (
        CHAIN
        + """
    cost F.a[0, 1] = 8 cost F.a[layer 1] = 3 cost F.b[s] = s + 2 for s in 0 .. 2
    cost F.c main[stages - 1] = 4
    """
    )
    found = spec(text + "split B into I, W\n", costs="cost F.c = 7 activation F.b[1, layer 0] = 2")
    assert [row[0] for row in figures(found)] == [1, 2, 3, 2, 7]
    assert [row[0] for row in figures(found, 1)] == [1, 3, 3, 3, 7]
    assert [row[4] for row in figures(found, 1)] == [0, 2, 0, 0, 0]
    # What was said of all layers takes back what one micro-batch was said to cost in one of them.
    exceptions = {show(found, o): ticks for o, ticks in found.exceptions}
    assert exceptions == {f"{kind}.a main[0, 1, layer 0]": 8 for kind in "FIW"}


def test_memory_of_stages_and_parts_is_exact() -> None:
    text = (
        CHAIN
        + """
    split B into I, W
    activation[s] = 3 + s for s in 0 .. 2 activation after I = 1/3
    activation F.a = 5 activation F.a[0, layer 1] = 1/2 limit activations <= 40
    """
    )
    found = spec(text)
    assert found.size_unit == 6
    first, second = found.pipelines[0].stages
    assert (first.activation, first.kept, second.activation, second.kept) == (18, 2, 24, 2)
    assert [row[4] for row in figures(found)] == [5, 0, Fraction(1, 2), 0, 0]
    assert [row[4] for row in figures(found, 1)] == [5, 0, 5, 0, 0]


RULES = [
    ("F[0, 1] after F[1, 0]", ["F.a main[0, 1, layer 0] after F.c main[1, 0]"]),
    ("I[0, 1] after I[1, 0]", ["I.c main[0, 1] after I.a main[1, 0, layer 0]"]),
    ("F.a[0, 1] after I.c[0, 0]", ["F.a main[0, 1, layer 0] after I.c main[0, 0]"]),
    ("F.c[0, 1] after F.b[0, 0]", ["F.c main[0, 1] after F.b main[0, 0, layer 1]"]),
    ("F.b[0, 1, layer 1] after I.b[0, 0, layer 0]",
     ["F.b main[0, 1, layer 1] after I.b main[0, 0, layer 0]"]),
    ("W.c[0, 1] after W.a[0, 0]", ["W.c main[0, 1] after W.a main[0, 0, layer 0]",
                                   "W.c main[0, 1] after W.a main[0, 0, layer 1]"]),
    ("F[0, 1] after B[0, 0]", ["F.a main[0, 1, layer 0] after I.a main[0, 0, layer 0]",
                               "F.a main[0, 1, layer 0] after W.a main[0, 0, layer 0]",
                               "F.a main[0, 1, layer 0] after W.a main[0, 0, layer 1]",
                               "F.a main[0, 1, layer 0] after W.c main[0, 0]"]),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "told"), RULES, ids=[rule for rule, _ in RULES])
def test_rules_name_all_parts_of_a_whole(rule: str, told: list[str]) -> None:
    """As many as decide: with the chains' own edges, all parts on the left come after all parts on
    the right."""
    found = spec(CHAIN + f"split B into I, W rule {rule}\n")
    assert (
        sorted(f"{show(found, r.later)} after {show(found, r.earlier)}" for r in found.rules)
        == told
    )


@pytest.mark.parametrize("split", ["split B into I, W\n", ""])
def test_a_rule_binds_every_part_of_its_wholes(split: str) -> None:
    """Every part on the left is reached from every part on the right."""
    kinds = "FBIW" if split else "FB"
    for later, earlier in product(kinds, kinds):
        found = spec(CHAIN + split + f"rule {later}[0, 1] after {earlier}[1, 0]\n")
        problem = expand(replace(found, rules=()))
        bound = networkx.DiGraph(zip(problem.tail, problem.head, strict=True))
        number = {o: i for i, o in enumerate(problem.operations)}
        bound.add_edges_from((number[r.earlier], number[r.later]) for r in found.rules)
        means = {"B": ("I", "W") if split else ("B",)}
        late, early = (
            [i for o, i in number.items() if o.kind in means.get(kind, kind) and o[2:4] == place]
            for kind, place in ((later, (0, 1)), (earlier, (1, 0)))
        )
        assert late and early
        for i in late:
            assert set(early) <= networkx.ancestors(bound, i)


def test_copies_feeds_and_pipelines_without_backward() -> None:
    text = """
    pipeline encoder { forward only feeds main[0] stages 3 }
    split F[s] into a, b on comm if s > 0, (stages - 2) * (c)
    activation F.c = 2 cost F.c = 2 cost F.c encoder[2] = 7
    """
    found = spec(text, ranks=2)
    assert chain(found, 0) == "a" and chain(found, 1) == "a b@comm"
    assert chain(found, 2, pipeline=1) == "a b@comm c0"
    parts_of_encoder = [stage.parts for stage in found.pipelines[1].stages]
    assert [row.B for row in parts_of_encoder[2]] == [0, 0, 0]
    assert parts_of_encoder[2][2].F == 7 and parts_of_encoder[1][2].activation == 2


def test_equal_chains_are_one_value() -> None:
    found = spec("split F[s] into 3 * (a, b), c if s % 2 == 0\n", ranks=6)
    assert len({id(x) for x in found.parts[0]}) == 2


def test_what_overlap_says_of_whole_operations_is_nothing_here() -> None:
    assert spec(CHAIN + "overlap F | B overlap F | I split B into I, W\n").overlap == ()


def test_operations_are_counted_part_by_part() -> None:
    per_stage = "split F into n * (a, b on comm) split B into I, W let x = 1\n"
    for n, fits in ((10, True), (11, False)):  # five operations each, 2 stages, 4 micro-batches
        text = f"param n = {n}\n" + per_stage
        source = Source("example.pipe", HEAD.format(ranks=2) + text)
        if fits:
            evaluate(parse(source), Settings(max_ops=400))
            continue
        with pytest.raises(Rejected) as caught:
            evaluate(parse(source), Settings(max_ops=400))
        assert [d.code for d in caught.value.diagnostics] == ["too-large"]
    assert refused("split F into 1000000000000 * (a)\n")[0].startswith("too-large: this step")
    assert refused("split F into a, 10 * (b)\n", ranks=60000)[0].startswith("too-large: this step")


WRONG = [
    ("split F into a if s == 0", "unknown-name: `s` is not defined"),
    ("split F[stages] into a", "syntax"),
    ("split F into a on a, b on b on c", "syntax"),
    ("split F into main * (a)", "wrong-kind: a number of layers must be a whole number"),
    ("split F into (3 / 2) * (a)", "not-whole: a number of layers must be a whole number"),
    ("split F[s] into a[s]", "syntax"),
    ("let s = 1 split F[s] into a", "name-taken: `s` is defined already"),
    ("split F into a, a", "name-taken: two parts are called `a`"),
    ("split F into a, 2 * (b, a on x)", "name-taken: two parts are called `a`"),
    ("split F into a split F into b", "stated-twice: `split F` stands twice"),
    ("split F into a if 1", "wrong-kind: a condition must be true or false"),
    ("split F into a if 1 / 0 == 1", "division-by-zero"),
    ("split F into 0 * (a), b if 1 == 2", "no-part: stage 0 of `main` has no part"),
    ("let layer = 3", "syntax: `layer` is a word of the language and cannot be a name"),
    (CHAIN + "cost W.a = 2 cost W.b = 1", "no-such-operation: there is no `W.b`: on `comm`"),
    (CHAIN + "rule W.a[0, 0] after F[0, 1]", "no-such-operation: there is no `W`: backwards"),
    (CHAIN + "rule B.b[0, 0] after F.d[0, 1]", "unknown-name: no part is called `d`"),
    (CHAIN + "rule F.a[0, 0, layer 2] after F[0, 1]",
     "no-such-operation: stage 0 of `main` has no `F.a` of layer 2"),
    (CHAIN + "split B into I, W rule B.b[0, 0] after F[0, 1]",
     "no-such-operation: there is no `B.b`: backwards are split"),
    (CHAIN + "split B into I, W rule W.b[0, 0] after F[0, 1]",
     "no-such-operation: there is no `W.b`: on `comm` its `I` does all the work"),
    ("split F into b on x split B into I, W rule W[0, 0] after F[0, 1]",
     "no-such-operation: stage 0 of `main` has no `W`"),
    (CHAIN + "rule F[0, 4] after F.a[0, 1]", "no-such-operation: `main` has no micro-batch 4"),
    ("rule F.a[0, 0] after F[0, 1]", "no-such-operation: `F` has no part `a`"),
    (CHAIN + "cost F.a[0, 4] = 1", "no-such-operation: `main` has no micro-batch 4"),
    (CHAIN + "cost F.a[slice 0] = 1", "no-such-operation: micro-batches are not cut into slices"),
    (CHAIN + "cost F.a[s, layer s] = 1 for s in 2 .. 3", "no-such-operation: `main` has no stage"),
    (CHAIN + "cost F.a = 0 - 1", "out-of-range: a duration cannot be -1"),
    (CHAIN + "activation F.a = 0 - 1", "out-of-range: an amount of memory cannot be -1"),
    (CHAIN + "cost F.a = 9007199254740993", "too-large"),
    (CHAIN + "cost F.a = 9007199254740991", "too-large"),  # two layers of it
]  # fmt: skip


@pytest.mark.parametrize(("text", "told"), WRONG, ids=[text for text, _ in WRONG])
def test_what_cannot_be(text: str, told: str) -> None:
    found = refused(text + "\n")
    assert found[0].startswith(told), found
    assert len(found) == 1 or "rule B.b" in text, found


def test_a_cost_may_fit_some_stages_of_its_range_only() -> None:
    found = spec("split F[s] into a if s == 0, b cost F.a[s] = s + 3 for s in 0 .. 2\n")
    assert [row[0] for row in figures(found)] == [3, 1]
