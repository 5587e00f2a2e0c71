"""What a public function raises, its docstring says: by name, in prose. That there is a docstring
ruff's `D` rules see."""

import ast
from collections.abc import Iterator

from tests.repository.sources import modules, tree
from tests.repository.test_names import types


def public(node: ast.AST) -> Iterator[ast.FunctionDef]:
    """The public functions and methods of a module or class."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
            yield child
        elif isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from public(child)


def raised(function: ast.FunctionDef) -> set[str]:
    """The classes that its own `raise` statements name."""
    called = [node.exc for node in ast.walk(function) if isinstance(node, ast.Raise)]
    named = [one.func if isinstance(one, ast.Call) else one for one in called]
    return {one.id for one in named if isinstance(one, ast.Name)}


def test_a_docstring_says_what_is_raised() -> None:
    """Of our own exceptions; what is raised further down is said there."""
    ours = set().union(*map(types, modules().values()))
    missing = {
        f"{module}:{function.name}: {name}"
        for module, path in modules().items()
        for function in public(tree(path))
        for name in raised(function) & ours
        if name not in (ast.get_docstring(function) or "")
    }
    assert not missing
