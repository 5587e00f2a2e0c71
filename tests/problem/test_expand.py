"""Spec → Problem against the language's rules, said again in `specs.needs`; and deadlocks."""

from collections import Counter
from random import Random

import msgspec
import pytest

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Rejected
from stretto.compiler.problem.deadlock import _Stuck
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.problem import EdgeKind, Problem
from stretto.compiler.problem.spec import NONE, Feed, Operation, Rule, Spec, Unit
from tests.support import specs

F, B, I, W = "FBIW"  # noqa: E741  the field's standard letters


def random_spec(seed: int) -> Spec:
    random = Random(seed)
    return specs.random_order(specs.random_model(random), random, pairs=0.4)


def edges(problem: Problem, *reasons: EdgeKind) -> set[tuple[Operation, Operation]]:
    """The edges for these reasons, as (earlier, later)."""
    names = problem.operations
    lists = zip(problem.tail, problem.head, problem.why, strict=True)
    return {(names[a], names[b]) for a, b, why in lists if why in reasons}


def refused(spec: Spec) -> Diagnostic:
    with pytest.raises(Rejected) as caught:
        expand(spec)
    (diagnostic,) = caught.value.diagnostics
    return diagnostic


DATA = (EdgeKind.ACTIVATION, EdgeKind.GRADIENT, EdgeKind.LOCAL, EdgeKind.SLICE)


def test_every_operation_has_exactly_the_edges_of_the_language() -> None:
    for seed in range(300):
        spec = random_spec(seed)
        problem = expand(spec)
        asked = [o for units in spec.written for unit in units for o in unit.operations]
        assert sorted(problem.operations) == sorted(asked)
        cut = {o[1:5] for o in asked if o.kind == "I"}
        assert edges(problem, *DATA) == {(x, o) for o in asked for x in specs.needs(spec, o, cut)}
        for a, b, lag, why in zip(
            problem.tail, problem.head, problem.lag, problem.why, strict=True
        ):
            if why in DATA:
                far = problem.rank[a] != problem.rank[b]
                assert lag == (spec.transfers[0].ticks if far and spec.transfers else 0)


def test_memory_is_given_back_as_it_was_taken() -> None:
    for seed in range(100):
        problem = expand(random_spec(seed))
        balance: Counter[tuple[int, ...]] = Counter()
        for operation, take, give in zip(
            problem.operations, problem.alloc, problem.free, strict=True
        ):
            balance[operation[1:]] += take - give
            assert operation.kind == "F" or not take
        assert not any(balance.values())


def test_a_pair_starts_together_and_ends_together() -> None:
    pairs = 0
    for seed in range(100):
        problem = expand(random_spec(seed))
        lists = list(zip(problem.tail, problem.head, problem.lag, strict=True))
        for i, j in enumerate(problem.overlaps_with):
            if j != NONE:
                assert problem.overlaps_with[j] == i and problem.rank[i] == problem.rank[j]
                assert {(a, lag) for a, b, lag in lists if b == i} == {
                    (a, lag) for a, b, lag in lists if b == j
                }
                assert {(b, lag) for a, b, lag in lists if a == i} == {
                    (b, lag) for a, b, lag in lists if a == j
                }
                pairs += 1
    assert pairs > 200


def test_unwritten_backwards_are_split_where_the_schedule_says_so() -> None:
    kinds = Counter(o.kind for o in expand(specs.linear(2, 3)).operations)
    assert kinds == {"F": 6, "B": 6}
    kinds = Counter(o.kind for o in expand(specs.linear(2, 3, split=True)).operations)
    assert kinds == {"F": 6, "I": 6, "W": 6}


def test_what_is_written_decides_over_the_default_micro_batch_by_micro_batch() -> None:
    spec = specs.linear(1, 3, split=True)
    part = [(Operation(B, 0, 0, 1),)], [(Operation(W, 0, 0, 1),)]
    for order, kinds in zip(part, ("FFFIBIWW", "FFFIIIWWW"), strict=True):
        problem = expand(specs.written(spec, [order[:1]]))
        assert "".join(o.kind for o in problem.operations) == kinds


def test_gradients_of_a_fed_pipeline_return_unless_forward_only() -> None:
    def gradients(forward_only: bool) -> set[tuple[Operation, Operation]]:
        side = specs.pipeline("side", [1, 0], 1, feeds=(Feed(0, 1),), forward_only=forward_only)
        problem = expand(specs.model(2, specs.pipeline("main", [0, 1], 1), side))
        assert (Operation(F, 1, 1, 0), Operation(F, 0, 1, 0)) in edges(problem, EdgeKind.ACTIVATION)
        return edges(problem, EdgeKind.GRADIENT)

    back = (Operation(B, 0, 1, 0), Operation(B, 1, 1, 0))
    assert back in gradients(False)
    assert back not in gradients(True)


def test_a_rule_on_a_backward_means_its_halves() -> None:
    rules = (
        Rule(Operation(F, 0, 0, 2), Operation(B, 0, 0, 0), 0),
        Rule(Operation(B, 0, 0, 2), Operation(B, 0, 0, 1), 0),
    )
    spec = specs.linear(1, 3, split=True, rules=rules)
    assert edges(expand(spec), EdgeKind.RULE) == {
        (Operation(W, 0, 0, 0), Operation(F, 0, 0, 2)),
        (Operation(W, 0, 0, 1), Operation(I, 0, 0, 2)),
    }
    whole = msgspec.structs.replace(spec, split_backward=False)
    assert edges(expand(whole), EdgeKind.RULE) == {(rule.earlier, rule.later) for rule in rules}


def test_a_rule_on_a_half_that_does_not_exist_is_refused() -> None:
    rule = Rule(Operation(F, 0, 0, 1), Operation(W, 0, 0, 0), 0)
    assert refused(specs.linear(1, 2, rules=(rule,))).code == "no-such-operation"


# ---------------------------------------------------------------------------- deadlocks


def finishes(spec: Spec) -> bool:
    """Whether the written orders can finish: run whatever is first on some rank."""
    cut = {o[1:5] for units in spec.written for unit in units for o in unit.operations if o[0] == I}
    left = [list(units) for units in spec.written]
    done: set[Operation] = set()

    def ready(unit: Unit) -> bool:
        return all(x in done for o in unit.operations for x in specs.needs(spec, o, cut))

    while running := [units for units in left if units and ready(units[0])]:
        for units in running:
            done.update(units.pop(0).operations)
    return not any(left)


def test_refused_exactly_where_the_ranks_wait_for_each_other() -> None:
    verdicts: Counter[bool] = Counter()
    for seed in range(1500):
        spec = random_spec(seed)
        if not any(len(units) > 1 for units in spec.written):
            continue
        spec = specs.shuffled(spec, Random(seed), swaps=2)
        verdicts[finishes(spec)] += 1
        if finishes(spec):
            expand(spec)
        else:
            assert refused(spec).code == "deadlock"
    assert min(verdicts.values()) > 400


def test_the_circle_shown_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each operation needs the next by data; and that one is held up behind the operation after
    it, in the order of a rank, or is that operation or its partner."""
    circles = []
    search = _Stuck.circle

    def watched(stuck: _Stuck) -> object:
        circles.append((stuck, search(stuck)))
        return circles[-1][1]

    monkeypatch.setattr(_Stuck, "circle", watched)
    for seed in range(400):
        spec = random_spec(seed)
        if any(len(units) > 1 for units in spec.written):
            spec = specs.shuffled(spec, Random(seed), swaps=3)
            if not finishes(spec):
                refused(spec)
    assert len(circles) > 150
    for stuck, circle in circles:
        names = stuck.problem.operations
        place = {
            o: (r, k)
            for r, us in enumerate(stuck.spec.written)
            for k, u in enumerate(us)
            for o in u.operations
        }
        cut = {o[1:5] for o in names if o.kind == "I"}
        for wait, then in zip(circle, circle[1:] + circle[:1], strict=True):
            assert names[wait.needed] in specs.needs(stuck.spec, names[wait.waiting], cut)
            (rank, k), (other, first) = place[names[wait.needed]], place[names[then.waiting]]
            assert rank == other and k >= first


def test_a_deadlock_is_explained() -> None:
    def mistaken(spec: Spec, rank: int) -> list[str]:
        """1F1B with the warm-up upside down."""
        rest = spec.microbatches - rank
        return ["F"] * rank + ["F", "B"] * rest + ["B"] * rank

    found = refused(specs.ordered(specs.linear(4, 8), mistaken))
    assert found.code == "deadlock"
    assert found.message == "this order can never finish: ranks 0 and 1 wait for each other"
    assert [(label.span.line, label.span.column, label.text) for label in found.labels] == [
        (1, 2, "rank 0 waits here, at `B main[0, 0]`"),
        (2, 2, "rank 1 waits here, at `F main[1, 1]`"),
    ]
    assert found.notes == (
        "circle: B main[0, 0]  needs the gradient of    B main[1, 0]\n"
        "        B main[1, 0]  is ordered after         F main[1, 1]  rank 1, line 2\n"
        "        F main[1, 1]  needs the activation of  F main[0, 1]\n"
        "        F main[0, 1]  is ordered after         B main[0, 0]  rank 0, line 1",
        "ranks 2 and 3 wait behind them",
    )
    assert found.help == (
        "run `B main[1, 0]` before `F main[1, 1]` on rank 1,\n"
        "or `F main[0, 1]` before `B main[0, 0]` on rank 0"
    )


def test_a_pair_of_what_depends_on_each_other_is_a_deadlock() -> None:
    both = (Operation(F, 0, 0, 0), Operation(B, 0, 0, 0))
    found = refused(specs.written(specs.linear(1, 1), [[both]]))
    assert found.help == "run `F main[0, 0]` and `B main[0, 0]` one by one on rank 0"
    assert "overlaps" in found.notes[0]


def test_rules_that_contradict_each_other_or_the_data() -> None:
    rule = Rule(Operation(F, 0, 0, 0), Operation(B, 0, 0, 0), 0)
    found = refused(specs.linear(2, 1, rules=(rule,)))
    assert found.message.startswith("these rules can never be met: ")
    assert found.help is None
    assert "by a rule runs after" in found.notes[0]
