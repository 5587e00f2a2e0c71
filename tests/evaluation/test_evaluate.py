"""Names, pipelines, rules and orders: what each statement makes of the Spec."""

from fractions import Fraction

import pytest

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.evaluation import Settings, evaluate
from stretto.compiler.language.parse import parse
from stretto.compiler.problem.spec import Operation, digest, show
from tests.support.evaluated import HEAD, MAIN, refused, spec

# ---- Parameters and names


def test_settings_replace_values_exactly() -> None:
    text = HEAD + "param memory = 1\nlet twice = 2 * memory\npipeline main { }\n"
    text += "limit activations <= twice * ranks\n"
    made = spec(text, ranks=2, memory=Fraction(9, 8))
    assert made.parameters == {"ranks": "2", "microbatches": "8", "memory": "9/8"}
    assert made.limits[0] is not None
    assert Fraction(made.limits[0].grains, made.size_unit) == Fraction(9, 2)


def test_only_parameters_can_be_set() -> None:
    assert refused(MAIN + "let a = 1\nparam memory = 2\n", a=1, memry=2) == [
        "the schedule has no parameter `a` to be set",
        "the schedule has no parameter `memry` to be set",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "let a = 1 let a = 2",
        "let ranks = 1",
        "let main = 1",
        "let r = 1 order rank r { }",
        "let s = 1 pipeline other { place s -> s }",
        "order rank r { repeat 1 as k { let k = 2 } }",
        "order rank r { for i in 0 .. 1, i in 0 .. 1 { } }",
        "let m = 1 cost F[0, m] = 2 for m in 0 .. 8",
    ],
)
def test_a_name_has_one_meaning(text: str) -> None:
    (message, *_) = refused(MAIN + text)
    assert message.endswith("is defined already")


def test_blocks_side_by_side_may_use_the_same_names() -> None:
    spec(
        MAIN + "order rank r { repeat 4 as k { let a = k; F } repeat 4 as k { let a = k; F } "
        "for a in 0 .. 8 { B } }"
    )


@pytest.mark.parametrize(
    "text",
    [
        "let a = b let b = 1",
        "schedule x pipeline main { stages n } let n = 3 ranks 4 microbatches 8",
        "order rank r { repeat 1 { let a = 1 } repeat a { } }",
        "pipeline p { replicates later } pipeline later { }",
        "cost F = n let n = 3",
    ],
)
def test_nothing_looks_ahead(text: str) -> None:
    text = text if text.startswith("schedule") else MAIN + text
    assert any("known yet" in m or "not defined" in m for m in refused(text))


def test_what_is_missing_is_told_once() -> None:
    text = "schedule x microbatches 4 let half = ranks / 2 pipeline main { stages ranks }\n"
    assert refused(text + "order rank r { repeat half { F } }") == ["`ranks` is missing"]


def test_mistakes_are_told_in_the_order_of_the_text_the_file_of_costs_last() -> None:
    text = MAIN + "\n\ncost F[7] = 1\nlet a = b\norder rank r { repeat c { F } }"
    found = refused(text, "cost F[9] = 1\n\n\n\n\n\ncost F[8] = d\n")
    assert [m.split("`")[-2] if "not defined" in m else m[-1] for m in found] == [
        "7", "b", "c", "9", "d",
    ]  # fmt: skip


def test_names_are_checked_even_where_a_requirement_fails() -> None:
    text = MAIN + "require ranks == 3\norder rank r { repeat n { F }\n repeat ranks / 3 { B } }"
    assert refused(text) == ["`ranks == 3` does not hold for ranks = 4", "`n` is not defined"]


def test_requirements_are_judged_before_anything_is_placed() -> None:
    text = HEAD + 'require ranks % 2 == 0, "pairs"\nlet half = ranks / 2\n'
    text += "pipeline main { stages half place s -> s * 7 }\norder rank r { repeat half { F } }"
    assert refused(text, ranks=3) == ["`ranks % 2 == 0` does not hold for ranks = 3: pairs"]


# ---- Pipelines


def test_defaults_of_a_pipeline() -> None:
    (main,) = spec(HEAD + "pipeline main { stages 6 }").pipelines
    assert [x.rank for x in main.stages] == [0, 1, 2, 3, 0, 1]
    assert (main.microbatches, main.model, main.first) == (8, "main", 0)
    assert {(x.F, x.B, x.I, x.W, x.activation, x.kept) for x in main.stages} == {(1, 2, 1, 1, 1, 1)}


def test_copies_share_the_micro_batches_in_order() -> None:
    made = spec(
        HEAD + 'pipeline a { microbatches 3 model "gpt" stages 2 }\n'
        "pipeline b { replicates a microbatches 1 place s -> stages - 1 - s }\n"
        "pipeline c { replicates b microbatches 4 }"
    )
    assert [(p.first, p.replicates, p.model) for p in made.pipelines] == [
        (0, -1, "gpt"),
        (3, 0, "gpt"),
        (4, 0, "gpt"),
    ]
    assert [x.rank for x in made.pipelines[1].stages] == [1, 0]


def test_several_models_and_feeds() -> None:
    made = spec(
        HEAD + 'pipeline vision { stages 2 feeds text[0] feeds text[3] model "clip" }\n'
        "pipeline text { }\npipeline judge { forward only feeds text[1] }"
    )
    vision, text, judge = made.pipelines
    assert vision.feeds == ((1, 0), (1, 3)) and judge.feeds == ((1, 1),)
    assert (vision.model, text.model, judge.forward_only) == ("clip", "text", True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pipeline a { place s -> s + 2 }", "stage 2 of `a` would stand on rank 4"),
        ("pipeline a { place s -> 0 - s }", "stage 1 of `a` would stand on rank -1"),
        ("pipeline a { place s -> s / 2 }", "a rank must be a whole number, and this is 1/2"),
        ("pipeline a { stages 0 }", "the number of stages must be at least 1, and this is 0"),
        ("pipeline a { microbatches 9 }", "`a` has 9 micro-batches, and the step only 8"),
        ("pipeline a { stages 2 stages 3 }", "`stages` stands twice in this pipeline"),
        ("pipeline a { } pipeline b { replicates a microbatches 4 }",
         "the copies of `a` have 8 + 4 = 12 micro-batches together, and the step has 8"),
        ("pipeline a { microbatches 4 } pipeline b { replicates a microbatches 4 stages 2 }",
         "`b` has 2 stages, and `a`, which it replicates, has 4"),
        ("pipeline a { feeds b[9] } pipeline b { }",
         "`b` has no stage 9: it has stages 0 to 3"),
        ("pipeline a { feeds b[0] } pipeline b { feeds a[1] }",
         "`a` feeds `b` feeds `a`: each would wait for the other"),
        ("pipeline a { feeds a[1] }", "`a` feeds `a`: each would wait for the other"),
        ("pipeline a { feeds c[1] }", "`c` is not a pipeline"),
        ("pipeline a { feeds b[0] } pipeline b { forward only }",
         "`b` is `forward only`, so `a` would get no gradients back"),
        ("pipeline a { replicates ranks }", "`ranks` is not a pipeline"),
    ],
)  # fmt: skip
def test_pipelines_that_cannot_be(text: str, message: str) -> None:
    assert refused(HEAD + text) == [message]


# ---- Rules, orders, the rest


def test_rules_for_every_binding() -> None:
    made = spec(
        MAIN + "rule F[s, m] after B[s, m - (ranks - s)] for s in 0 .. ranks, "
        "m in ranks - s .. microbatches\n"
    )
    assert len(made.rules) == 4 + 5 + 6 + 7
    assert [show(made, o) for o in made.rules[0][:2]] == ["F main[0, 4]", "B main[0, 0]"]
    assert refused(MAIN + "rule F[s, 0] after F[0, s + 4] for s in 0 .. 5") == [
        "`main` has no stage 4"
    ]


def test_a_rule_without_slices_means_all_of_them() -> None:
    made = spec(MAIN + "split microbatch into 2 slices\nrule F[0, 1] after B[0, 0, slice 1]\n")
    assert [(a.slice, b.slice) for a, b, _ in made.rules] == [(0, 1), (1, 1)]


def test_orders_have_digests_and_partial_ones_none() -> None:
    whole = spec(MAIN + "order rank r { repeat 8 { F } repeat 8 { B } }")
    units = [(Operation(k, 0, 2, m),) for k in "FB" for m in range(8)]
    assert whole.order[2] == digest(units)
    assert [u.operations for u in whole.written[2]] == units
    assert {str(whole.spans[u.at]) for u in whole.written[2]} == {
        "example.pipe:3:27", "example.pipe:3:42",
    }  # fmt: skip
    part = spec(MAIN + "order auto order rank r { if r != 2 { repeat 8 { F } repeat 8 { B } } }")
    assert part.order == (*whole.order[:2], "", whole.order[3])
    assert part.written[2] == ()
    assert spec(MAIN).order == ("",) * 4 and spec(MAIN).written == ()


def test_minimize() -> None:
    made = spec(MAIN + "minimize span under jitter 1/20")
    assert (made.minimize, made.jitter) == ("span", (1, 20))


def test_a_step_that_is_too_large_is_refused_at_once() -> None:
    text = MAIN + "order rank r { repeat 1000000000 { F } }"
    assert refused(text) == ["the loops of this file make more than 4,000,000 rounds"]
    assert refused(MAIN, microbatches=3_000_000) == [
        "this step may have 24,000,000 operations, and 4,000,000 are the most"
    ]
    few = Settings(max_ops=63)
    with pytest.raises(Rejected):
        evaluate(parse(Source("example.pipe", MAIN)), few)
    evaluate(parse(Source("example.pipe", MAIN)), Settings(max_ops=64))
