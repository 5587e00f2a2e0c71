"""Functions, their arguments, classes and modules stay small enough to be read at once."""

import ast
from collections.abc import Iterator

from tests.repository.sources import FOLDERS, modules, tree
from tests.support.paths import ROOT

LINES, ARGUMENTS, CLASS, MODULE = 70, 7, 150, 500

# At most six, each with its reason.
EXCEPTIONS: dict[str, str] = {
    "compiler.driver:compile_file": "a keyword for each flag of the command",
}


def too_large() -> Iterator[str]:
    """`MODULE:NAME what` of everything beyond these sizes, docstrings included, `self` not."""
    for module, path in modules().items():
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if isinstance(node, ast.ClassDef):
                if lines > CLASS:
                    yield f"{module}:{node.name} has {lines} lines"
                continue
            if lines > LINES:
                yield f"{module}:{node.name} has {lines} lines"
            given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            many = len([a for a in given if a.arg not in ("self", "cls")])
            if many > ARGUMENTS:
                yield f"{module}:{node.name} takes {many} arguments"


def test_nothing_is_too_large() -> None:
    found = {line.split()[0]: line for line in too_large()}
    assert not [line for name, line in found.items() if name not in EXCEPTIONS]
    assert found.keys() >= EXCEPTIONS.keys(), "an exception that is none any more"
    assert len(EXCEPTIONS) <= 6


def test_no_module_is_too_long() -> None:
    """Neither of the program nor of its tests, benchmarks and documents."""
    paths = [
        path
        for folder in (*FOLDERS, "tests", "benchmarks", "docs", "examples")
        for path in (ROOT / folder).rglob("*.py")
    ]
    long = {path: len(path.read_text("utf-8").splitlines()) for path in paths}
    assert not {str(path): lines for path, lines in long.items() if lines > MODULE}
    assert max(long.values()) > MODULE / 2, "modules were not read"
