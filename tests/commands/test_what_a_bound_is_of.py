"""A bound is told with what it is of, the span or the makespan, and what it is over."""

import json
import re
from pathlib import Path

import pytest

from stretto.compiler import compile_file, library
from tests.support.command_line import Run


@pytest.mark.parametrize(("ranks", "microbatches"), [(4, 8), (8, 16), (4, 32)])
def test_a_schedule_made_for_its_span_has_a_bound_of_both(ranks: int, microbatches: int) -> None:
    """Costs alike, the last rank's work waits for ranks - 1 forwards: no makespan is less."""
    found = compile_file("zb_h2", ranks=ranks, microbatches=microbatches).summary()
    assert found["bound_of"] == "span" and found["lower_bound"] == 3 * microbatches
    assert found["makespan_bound"] == 3 * microbatches + ranks - 1 <= found["makespan"]


def test_a_bound_of_the_makespan_is_the_bound() -> None:
    found = compile_file("zb_v", ranks=4, microbatches=8).summary()
    assert found["bound_of"] == "makespan"
    assert found["makespan_bound"] == found["lower_bound"]


def test_commands_show_both(stretto: Run) -> None:
    out = " ".join(
        stretto("check", "zb_h2", "--set", "ranks=8", "--set", "microbatches=16")[1].split()
    )
    assert "span 48 (optimal), makespan 55 (lower bound 55)" in out


def test_a_bound_over_any_memory_says_so_and_how_to_have_another(
    stretto: Run, folder: Path
) -> None:
    """The statement that is offered keeps the order and raises the bound: to what is listed for the
    same problem under that limit in docs/orders.md."""
    name, out, _ = "deepseek_v3", *stretto("compile", "deepseek_v3")[1:]
    (limit,) = re.findall(r"with `(limit activations <= \d+)`", " ".join(out.split()))
    before = json.loads(stretto("compile", name, "--json")[1])
    assert before["limited"] is False
    (folder / "limited.pipe").write_text(f"{library.read(name).text}\n{limit}\n")
    after = json.loads(stretto("compile", "limited.pipe", "--json")[1])
    assert after["limited"] is True
    assert after["makespan"] == before["makespan"] == 9404
    assert (before["lower_bound"], after["lower_bound"]) == (7162, 9078)
    assert "over all orders" not in stretto("compile", "limited.pipe")[1]


def test_an_optimal_order_needs_no_such_words(stretto: Run) -> None:
    assert "bound:" not in stretto("check", "one_f_one_b")[1]
    assert "  bound: over all orders" in stretto("check", "dualpipe")[1]
