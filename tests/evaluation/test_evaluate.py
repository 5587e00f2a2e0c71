"""Evaluation: expressions against Python's own, then what each statement makes of the Spec."""

from fractions import Fraction
from math import ceil, floor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.evaluation import Settings, evaluate
from stretto.compiler.language import syntax as s
from stretto.compiler.language.parse import parse, parse_costs
from stretto.compiler.problem.spec import Costs, Operation, Spec, Transfer, digest, show
from tests.support import printed

HEAD = "schedule example ranks 4 microbatches 8\n"
MAIN = HEAD + "pipeline main { }\n"


def spec(text: str, costs: str = "", **values: int | Fraction) -> Spec:
    read = parse_costs(Source("costs.pipe", costs)) if costs else None
    return evaluate(parse(Source("example.pipe", text)), Settings(values=values, costs=read))


def refused(text: str, costs: str = "", **values: int | Fraction) -> list[str]:
    with pytest.raises(Rejected) as caught:
        spec(text, costs, **values)
    return [d.message for d in caught.value.diagnostics]


def value(expression: str) -> Fraction:
    return Fraction(spec(MAIN + f"param x = {expression}\n").parameters["x"])


# ---- Expressions


class Unlike(Exception):
    """Python would go on where the language stops."""


def python(e: s.Expression) -> Any:
    """The expression's value by Python's operators on fractions."""
    match e:
        case s.Number(number):
            return Fraction(number)
        case s.Chain(first, rest):
            text, values = "v[0]", [numeric(first)]
            for sign, of in rest:
                text += f" {sign} v[{len(values)}]"
                values.append(numeric(of))
            return Fraction(eval(text, {"v": values}))  # Python's own tightness and grouping
        case s.Negative(of):
            return -numeric(of)
        case s.Comparison(left, sign, right):
            return eval(f"a {sign} b", {"a": numeric(left), "b": numeric(right)})
        case s.Not(of):
            return not truth(of)
        case s.Both(operands):
            return all(truth(o) for o in operands)
        case s.Either(operands):
            return any(truth(o) for o in operands)
        case s.Conditional(cases, otherwise):
            for condition, then in cases:
                if truth(condition):
                    return python(then)
            return python(otherwise)
        case s.Call(function, arguments):
            apply = {"min": min, "max": max, "abs": abs, "ceil": ceil, "floor": floor}
            if function.text == "len" or (function.text in ("min", "max") and not arguments):
                raise Unlike
            if function.text in ("min", "max"):
                return Fraction(apply[function.text]([numeric(a) for a in arguments]))  # type: ignore[operator]
            if len(arguments) != 1:
                raise Unlike
            return Fraction(apply[function.text](numeric(arguments[0])))  # type: ignore[operator]
    raise Unlike


def numeric(e: s.Expression) -> Fraction:
    found = python(e)
    if not isinstance(found, Fraction):
        raise Unlike
    return found


def truth(e: s.Expression) -> bool:
    found = python(e)
    if not isinstance(found, bool):
        raise Unlike
    return found


NUMBERS = st.integers(0, 99).map(lambda n: s.Number(printed.whole(Fraction(n, 4)), printed.NOWHERE))


@given(st.recursive(NUMBERS, printed.larger, max_leaves=12))
@settings(max_examples=600, deadline=None)
def test_expressions_are_worth_what_python_says(e: s.Expression) -> None:
    text = printed.expression(e)
    try:
        expected = python(e)
        if not isinstance(expected, Fraction):
            raise Unlike
    except (Unlike, ZeroDivisionError):
        # A wrong part may stand in a branch that is not needed; then it has a value nevertheless.
        return
    assert value(text) == expected, text


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("1 / 3 * 3", 1),
        ("7 // 2 * 2", 6),
        ("-7 // 2", -4),
        ("-7 % 3", 2),
        ("7/2 % 1", Fraction(1, 2)),
        ("2 - 3 - 4", -5),
        ("- 2 * 3 + 1", -5),
        ("min([3, 1, 2])", 1),
        ("max(1, 5/2, 2)", Fraction(5, 2)),
        ("[1, [2, 3]][1][0]", 2),
        ("len([1, 2, 3])", 3),
        ("if 1 == 1 then 2 else 1 / 0", 2),
        ("if not 1 == 2 and 1 < 2 or 1 / 0 == 1 then 3 else 4", 3),
        ("main.stages * main.microbatches", 32),
        ("if main == main then 1 else 0", 1),
        ("2 GiB // 1 MiB", 2048),
        ("ranks + microbatches", 12),
    ],
)
def test_expressions(expression: str, expected: Fraction) -> None:
    assert value(expression) == expected


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("1 + (1 == 1)", "`+` needs numbers, and this is the truth value true"),
        ("main + 1", "`+` needs numbers, and this is the pipeline `main`"),
        ("[1, 2][2]", "there is no item 2: this list has 2 items, from 0"),
        ("[1, 2][-1]", "there is no item -1: this list has 2 items, from 0"),
        ("[1, 2][1/2]", "an index must be a whole number, and this is 1/2"),
        ("1[0]", "`[ ]` needs a list, not the number 1"),
        ("if 1 then 2 else 3", "a condition must be true or false, and this is the number 1"),
        ("1 / (2 - 2)", "this divides by zero"),
        ("max([])", "`max` of an empty list has no value"),
        ("max()", "`max` needs values or a list"),
        ("abs(1, 2)", "`abs` needs one value"),
        ("if main < main then 1 else 2",
         "`<` cannot compare the pipeline `main` with the pipeline `main`"),
        ("main.ranks", "a pipeline has no `ranks`"),
        ("ranks.stages", "`.stages` needs a pipeline, not the number 4"),
        ("F", "`F` is an operation, and not a value"),
        ("stages", "`stages` alone is known only in `place` and inside the `[ ]` of costs"),
        ("true", "`true` is not defined"),
        ("1 == 1", "a parameter is a number, and `x` would be the truth value true"),
    ],
)  # fmt: skip
def test_expressions_that_have_no_value(expression: str, message: str) -> None:
    assert refused(MAIN + f"param x = {expression}\n") == [message]


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


# ---- Costs


def test_the_last_cost_that_fits_counts() -> None:
    made = spec(
        HEAD + "pipeline a { stages 3 }\npipeline b { stages 2 }\nlet heavy = [2, 3, 4]\n"
        "cost F = 1/2\ncost F[stages - 1] = 3/2\ncost F a[s] = heavy[s] for s in 1 .. 3\n"
        "cost W b[0] = 5\ncost B b[1] = 7\ncost F[1] = 6\n"
    )
    unit = made.time_unit
    assert unit == 2
    costs = [[(x.F / unit, x.B / unit) for x in p.stages] for p in made.pipelines]
    assert costs == [[(0.5, 2), (6, 2), (4, 2)], [(0.5, 6), (6, 7)]]


def test_costs_of_single_operations() -> None:
    made = spec(
        HEAD + "pipeline a { stages 2 }\nsplit B into I, W\n"
        "cost F[s, m] = 1 + m for s in 0 .. 2, m in 2 .. 4\n"
        "cost I[0, 5] = 3\ncost B[1, 5] = 9\ncost F[1, 3] = 1\n"
    )
    exceptional = {show(made, o): t for o, t in made.exceptions}
    assert exceptional == {
        "F a[0, 2]": 3, "F a[0, 3]": 4, "F a[1, 2]": 3,
        "I a[0, 5]": 3, "B a[0, 5]": 4, "B a[1, 5]": 9,
    }  # fmt: skip


def test_a_cost_of_the_whole_stage_takes_exceptions_back() -> None:
    assert spec(MAIN + "cost F[0, 3] = 5\ncost F = 2\n").exceptions == ()


def test_costs_by_slice() -> None:
    made = spec(
        HEAD + "pipeline a { stages 1 microbatches 2 }\nsplit microbatch into 3 slices\n"
        "cost F[slice 2] = 4\ncost F[0, 1, slice 0] = 2\ncost B[0, slice 1] = 8\n"
    )
    assert {(show(made, o), t) for o, t in made.exceptions} == {
        ("F a[0, 0, slice 2]", 4), ("F a[0, 1, slice 2]", 4), ("F a[0, 1, slice 0]", 2),
        ("B a[0, 0, slice 1]", 8), ("B a[0, 1, slice 1]", 8),
    }  # fmt: skip
    assert made.slices == 3


def test_costs_of_pairs() -> None:
    text = HEAD + (
        "pipeline a { microbatches 4 }\npipeline b { replicates a microbatches 4 }\n"
        "split B into I, W\noverlap F | B\noverlap F | I\n"
        "cost F = 2\ncost F | B = max(F, B) + 1/4\ncost F a[s] | B b[s] = 3 + s for s in 1 .. 3\n"
        "cost F | I = F + I\n"
    )
    made = spec(text)
    pairs = {(p.rank, p.forward, p.kind, p.backward): p.ticks / made.time_unit for p in made.pairs}
    assert {kind for _, _, kind, _ in pairs} == {"B"}  # F + I is the sum, and not listed
    assert len(pairs) == 4 * 4 - 1  # F a[1] | B b[1] = 4 is the sum, too
    assert pairs[0, (0, 0), "B", (1, 0)] == 2.25
    assert pairs[1, (0, 1), "B", (0, 1)] == 2.25
    assert pairs[2, (0, 2), "B", (1, 2)] == 5


def test_a_pair_with_an_exceptional_half_is_listed_where_it_is_run() -> None:
    order = "order rank r { repeat 4 { F } repeat 4 { F | B } repeat 4 { B } }"
    text = MAIN + "overlap F | B\ncost F | B = max(F, B)\ncost F[2, 5] = 6\n"
    made = spec(text + order)
    assert [(show(made, f), show(made, b), t) for f, b, t in made.exceptional_pairs] == [
        ("F main[2, 5]", "B main[2, 1]", 6)
    ]
    found = spec(text)  # the compiler orders: it could be paired with any other micro-batch
    assert len(found.exceptional_pairs) == 7
    for one in (made, found):
        costs = Costs(one)
        f, b = Operation("F", 0, 2, 5), Operation("B", 0, 2, 1)
        assert (costs.of(f), costs.pair(f, b), costs.pair(f._replace(microbatch=4), b)) == (6, 6, 2)


def test_memory() -> None:
    made = spec(
        HEAD + "pipeline a { stages 4 }\nactivation = 3\nactivation[stages - 1] = 1/2\n"
        "activation after I = 2\nactivation after I a[3] = 1/4\n"
        "limit activations <= 9\nlimit activations <= r + 5/3 for rank r\n"
    )
    unit = made.size_unit
    assert unit == 12
    assert [(x.activation / unit, x.kept / unit) for x in made.pipelines[0].stages] == [
        (3, 2), (3, 2), (3, 2), (0.5, 0.25),
    ]  # fmt: skip
    limits = [limit and Fraction(limit.grains, unit) for limit in made.limits]
    assert limits == [Fraction(5, 3), Fraction(8, 3), Fraction(11, 3), Fraction(14, 3)]


def test_transfers_only_where_ranks_exchange_data() -> None:
    text = HEAD + "pipeline main { place s -> [0, 1, 1, 3][s] }\n"
    text += "transfer if a // 2 == b // 2 then 1/10 else 1/2 for rank a -> b\n"
    made = spec(text)
    assert made.time_unit == 10
    assert made.transfers == (
        Transfer(0, 1, 1), Transfer(1, 0, 1), Transfer(1, 3, 5), Transfer(3, 1, 5),
    )  # fmt: skip
    forward = spec(text.replace("{ place", "{ forward only place"))
    assert forward.transfers == (Transfer(0, 1, 1), Transfer(1, 3, 5))


def test_a_file_of_costs_stands_at_the_end() -> None:
    text = MAIN + "let slow = 3\ncost F = 2\ntransfer 1\n"
    made = spec(text, "cost F[0] = slow\nactivation = 1/2\ntransfer 2\n")
    assert [x.F for x in made.pipelines[0].stages] == [3, 2, 2, 2]
    assert {t.ticks for t in made.transfers} == {2} and made.size_unit == 2
    with pytest.raises(Rejected) as caught:
        spec(text, "\ncost F[9] = slwo\n")
    (found,) = caught.value.diagnostics
    assert str(found.labels[0].span) == "costs.pipe:2:13"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cost F[4] = 2", "`main` has no stage 4"),
        ("cost F[0, 8] = 2", "`main` has no micro-batch 8"),
        ("cost F[slice 0] = 2", "micro-batches are not cut into slices here"),
        ("cost F = 0 - 1", "a duration cannot be -1"),
        ("cost F = main", "a duration must be a number, not the pipeline `main`"),
        ("cost F.dispatch = 2", "`F` has no part `dispatch`: stages are not cut into parts"),
        ("cost F | B = 2", "nothing says that an `F` may overlap with a `B`"),
        ("activation after I = 2", "after `I main[0]` 2 would be left of an "
         "activation of 1"),
        ("activation[7] = 2", "`main` has no stage 7"),
        ("limit activations <= 0 - 1", "an amount of memory cannot be -1"),
        ("transfer 1 transfer 2", "`transfer` stands twice"),
        ("minimize span under jitter 2", "jitter is a fraction from 0 to 1, and this is the "
         "number 2"),
        ("cost F = 1 / 3 ** 2", None),
        ("split F into a, b on comm", "stages that are cut into parts cannot be compiled yet"),
    ],
)  # fmt: skip
def test_costs_that_cannot_be(text: str, message: str | None) -> None:
    found = refused(MAIN + text)
    assert len(found) == 1 and (message is None or found == [message])


def test_times_without_a_common_unit_are_refused() -> None:
    primes = [10**9 + 7, 10**9 + 9]
    assert (
        "common denominator is above 2^53"
        in refused(MAIN + f"cost F[0] = 1 / {primes[0]}\ncost F[1] = 1 / {primes[1]}\n")[0]
    )
    apart = refused(MAIN + f"cost F[0] = 1 / {primes[0]}\ncost F[1] = {10**9}\n")
    assert "lie too far apart: in units of 1/1000000007" in apart[0]


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
    units = [(Operation(k, 0, 2, m),) for k in "FB" for m in range(8)]  # type: ignore[arg-type]
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
