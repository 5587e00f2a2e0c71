"""Nobody keeps a hot loop under a name of their own: loops are exchanged for compiled ones while a
process runs. One that is kept all the same runs plain, and nothing ends the process."""

import ast
from pathlib import Path
from typing import Any

import pytest

from stretto.compiler.order.budget import Budget
from stretto.compiler.order.engines.priority_rules import ListScheduler, rules
from stretto.compiler.order.kernels import evaluator, jit
from stretto.compiler.order.kernels.instance import instance_of
from stretto.compiler.order.search_state import start_search
from stretto.compiler.problem.expand import expand
from tests.support.specs import linear

ROOT = Path(__file__).parents[2]
MARKS = {"compiled", "inner", "part", "counted"}


def loops() -> set[tuple[str, str]]:
    """Module and name of every loop."""
    found = set()
    for path in sorted((ROOT / "compiler/order").rglob("*.py")):
        module = ".".join(("stretto", *path.relative_to(ROOT).with_suffix("").parts))
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                marks = {d.id for d in node.decorator_list if isinstance(d, ast.Name)}
                if marks & MARKS:
                    found.add((module, node.name))
    return found


def test_loops_are_imported_by_their_module_outside_the_room() -> None:
    known = loops()
    assert len(known) > 50
    kept = [
        f"{path.relative_to(ROOT)}: {alias.name}"
        for folder in ("compiler", "tests", "benchmarks", "docs", "runtime", "examples")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not path.is_relative_to(ROOT / "compiler/order")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if (node.module, alias.name) in known
    ]
    assert not kept, "import the module: " + ", ".join(kept)


def test_a_loop_without_an_entry_from_plain_code_runs_plain() -> None:
    """It would end the process: a plain loop that runs while loops are exchanged calls such."""
    if not jit.available():
        pytest.skip("numba is not there")
    before = jit.fast()
    jit.engage()
    try:
        made = instance_of(expand(linear(3, 4)))
        state = start_search(made, Budget(), 1)
        sequence = ListScheduler(state.t).run(next(rules(made)))
        compiled: Any = evaluator.evaluate
        value = compiled(state.evaluator, sequence, False)
        assert compiled.py_func(state.evaluator, sequence, False) == value > 0
    finally:
        if not before:
            jit.disengage()
