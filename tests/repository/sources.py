"""The modules of the program as text: what the tests of the repository look at."""

import ast
from functools import cache
from pathlib import Path

from tests.support.paths import ROOT

FOLDERS = ("compiler", "grammar", "runtime")


@cache
def modules() -> dict[str, Path]:
    """Every module of ours by its name without `stretto.`; a package by its folder's name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text("utf-8"))


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it, by its full name."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports between our folders use the full name"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            named = {name for name in inner if name.removeprefix("stretto.") in modules()}
            found |= named or {node.module or ""}
    return found


def ours(path: Path) -> set[str]:
    """Those of its imports that are modules of ours, without `stretto.`."""
    names = {n.removeprefix("stretto.") for n in imports(path) if n.startswith("stretto.")}
    assert names <= modules().keys() | {"schedules"}, f"{path} imports what is not there"
    return names


def loaded(path: Path) -> set[str]:
    """The modules of ours that a file loads by their full name, as a text, when they are needed;
    without `stretto.`."""
    found = set()
    for node in ast.walk(tree(path)):
        match node:
            case ast.Call(
                func=ast.Name(id="import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name))],
            ) if name.startswith("stretto."):
                found.add(name.removeprefix("stretto."))
    return found
