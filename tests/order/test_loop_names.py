"""Nobody keeps a hot loop under a name of their own: loops are exchanged for compiled ones while a
process runs, and a plain one that calls compiled ones ends the process."""

import ast
from pathlib import Path

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
