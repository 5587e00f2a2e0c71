"""A type's name has one meaning. Syntax and Spec share theirs on purpose: what is written, and what
it is worth."""

import ast
from collections import defaultdict
from pathlib import Path

from tests.repository.sources import modules, tree

# Modules whose types may be called as in another of them.
TWINS = {"compiler.language.syntax", "compiler.problem.spec"}


def types(path: Path) -> set[str]:
    """The classes and aliases that a module defines; a leading `_` is ignored."""
    found = set()
    for node in tree(path).body:
        match node:
            case ast.ClassDef(name=name):
                found.add(name.lstrip("_"))
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                bare = name.lstrip("_")
                if bare[:1].isupper() and not bare.isupper():
                    found.add(bare)
    return found


def test_no_type_name_stands_twice() -> None:
    where: dict[str, set[str]] = defaultdict(set)
    for module, path in modules().items():
        for name in types(path):
            where[name].add(module)
    twice = {name: sorted(m) for name, m in where.items() if len(m) > 1 and not m <= TWINS}
    assert not twice
