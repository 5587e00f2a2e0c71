"""Imports follow the line of the design: a module knows only what stands before it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# The proof: six modules that know what a Program says, and nobody who makes one.
PROOF = {f"compiler.proof.{n}" for n in ("ledger", "obligations", "rank", "simulate", "messages")}

# What each of these modules may import of ours; a name allows what is inside it too.
ALLOWED = {
    "compiler/diagnostics/source.py": set(),
    "compiler/diagnostics/diagnostic.py": {"compiler.diagnostics.source"},
    "compiler/problem/spec.py": {"compiler.diagnostics.source"},
    "compiler/program/program.py": {"compiler.problem.spec"},
    **{
        f"compiler/proof/{name}.py": PROOF
        | {
            "compiler.problem.spec",
            "compiler.program.program",
            "compiler.diagnostics.diagnostic",
        }
        for name in ("prove", "ledger", "obligations", "rank", "simulate", "messages")
    },
    "compiler/plan/lines.py": {"compiler.diagnostics.diagnostic"},
    "compiler/plan/references.py": {"compiler.problem.spec", "compiler.program.program"},
    "compiler/problem/problem.py": {"compiler.problem.spec"},
}
RUNTIME_MAY = {"plan", "program", "proof", "diagnostics"}


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Every module that the file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports between our folders use the full name"
            found.add(node.module or "")
    return found


def ours(path: Path) -> set[str]:
    return {name.removeprefix("stretto.") for name in imports(path) if name.startswith("stretto.")}


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_a_value_knows_only_what_stands_before_it(name: str) -> None:
    if not (ROOT / name).exists():
        pytest.fail(f"{name} is missing")
    assert ours(ROOT / name) <= ALLOWED[name]


@pytest.mark.parametrize("path", modules("compiler") + modules("grammar"), ids=str)
def test_the_compiler_knows_neither_torch_nor_the_runtime(path: Path) -> None:
    assert not {name for name in imports(path) if name.split(".")[0] == "torch"}
    assert not {name for name in ours(path) if name.startswith("runtime")}


@pytest.mark.parametrize("path", modules("runtime"), ids=str)
def test_the_runtime_knows_only_plans_and_their_proof(path: Path) -> None:
    from_compiler = {n.split(".")[1] for n in ours(path) if n.startswith("compiler.")}
    assert from_compiler <= RUNTIME_MAY


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("stretto.compiler", ("lark", "networkx", "torch", "msgspec", "rich")),
        ("stretto.compiler.plan", ("lark", "networkx", "torch", "rich")),
        ("stretto.compiler.proof", ("lark", "networkx", "torch", "rich")),
        ("stretto.compiler.cli", ("networkx", "torch", "rich")),
    ],
)
def test_importing_loads_no_more_than_it_needs(module: str, absent: tuple[str, ...]) -> None:
    code = f"import {module}, sys; print([m for m in {absent!r} if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert out.stdout.strip() == "[]"
