"""What Python leaves out at `-O` and `-OO`, asserts and docstrings, does no work and judges
nothing: each command says there what it says without."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repository.sources import modules
from tests.support.command_line import WRONG

COMMANDS = [
    ["compile", "dualpipe", "--json"],
    ["check", "deepseek_v3"],
    ["check", "wrong.pipe", "--format", "concise"],
    ["explain", "deadlock"],
    ["check", "--help"],
]
ASKS = ("isinstance", "issubclass", "type", "len", "callable")


@pytest.mark.parametrize("flag", ["-O", "-OO"])
def test_commands_say_the_same_when_python_optimizes(flag: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.pipe").write_text(WRONG)
    for words in COMMANDS:
        plain, optimized = (
            subprocess.run(
                [sys.executable, *flags, "-m", "stretto.compiler.cli", *words],
                cwd=tmp_path,
                capture_output=True,
                text=True,
            )
            for flags in ([], [flag])
        )
        assert (optimized.returncode, optimized.stdout) == (plain.returncode, plain.stdout), words


def test_no_assert_does_work() -> None:
    """It asks what something is, and calls nothing else."""
    found = [
        f"{name}:{node.lineno} {ast.unparse(node.test)}"
        for name, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assert)
        for inner in ast.walk(node.test)
        if isinstance(inner, ast.NamedExpr)
        or (
            isinstance(inner, ast.Call)
            and ast.unparse(inner.func)
            not in ("isinstance", "issubclass", "type", "len", "callable")
        )
    ]
    assert not found, found
