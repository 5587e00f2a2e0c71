"""What is installed is all of it, and compiles where there is no torch."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.support.paths import ROOT

FOLDERS = ("compiler", "grammar", "runtime", "schedules")
SKIP = shutil.ignore_patterns("__pycache__")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the working tree, built aside and without network."""
    tree = tmp_path_factory.mktemp("tree")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tree / folder, ignore=SKIP)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tree)
    words = "-m pip wheel --quiet --no-build-isolation --no-deps --no-index --wheel-dir dist ."
    done = subprocess.run(
        [sys.executable, *words.split()], cwd=tree, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    (built,) = (tree / "dist").iterdir()
    return built


def test_every_package_is_named() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = table["tool"]["setuptools"]["packages"]
    there = {
        "stretto." + ".".join(path.parent.relative_to(ROOT).parts)
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert set(named) == there
    assert len(named) == len(there)


def test_the_wheel_has_every_file(wheel: Path) -> None:
    inside = set(ZipFile(wheel).namelist())
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"stretto/{path.relative_to(ROOT)}" in inside
    for needed in ("grammar/pipe.lark", "schedules/dualpipe.pipe", "compiler/py.typed"):
        assert f"stretto/{needed}" in inside
    entries = next(name for name in inside if name.endswith("entry_points.txt"))
    assert "stretto = stretto.compiler.cli:main" in ZipFile(wheel).read(entries).decode()


def test_it_compiles_where_torch_cannot_be_imported(wheel: Path, tmp_path: Path) -> None:
    ZipFile(wheel).extractall(tmp_path)
    code = """
import sys
sys.modules["torch"] = sys.modules["numpy"] = None   # importing either raises ImportError
import stretto.compiler
from stretto.compiler import compile_file
from stretto.compiler.cli import main
plan = compile_file("dualpipe", ranks=4, microbatches=8)
print(stretto.compiler.__file__, plan.claims["train"].makespan)
for format in ("text", "svg", "html", "trace", "json", "dot"):
    assert main(["show", "dualpipe", "--format", format, "-o", format]) == 0
assert main(["show", "zb_v", "--format", "torch-csv", "-o", "csv"]) == 0
assert main(["run", "dualpipe", "--model", "a:b"]) == 2
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    where, makespan = done.stdout.split()
    assert Path(where).is_relative_to(tmp_path)
    assert makespan == "26"
    assert "needs PyTorch" in done.stderr
