"""What the statements of costs make of a Spec."""

from fractions import Fraction

import pytest

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.problem.spec import Costs, Operation, Transfer, show
from tests.support.evaluated import HEAD, MAIN, refused, spec


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
        ("activation F.a = 2", "`F` has no part `a`: stages are not cut into parts"),
    ],
)  # fmt: skip
def test_costs_that_cannot_be(text: str, message: str | None) -> None:
    found = refused(MAIN + text)
    assert len(found) == 1 and (message is None or found == [message])
