"""`make test-gpu` where there is torch and no other package: the stand-ins for lark and msgspec
make the same plans, byte for byte, and the runtime runs them."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.environment import BARE

ROOT = Path(__file__).parent.parent.parent
PLANS = """
import sys
for name in ("networkx", "numpy", "rich", "shtab", "ortools", "numba", *sys.argv[1:]):
    sys.modules[name] = None  # as if it were not there
from stretto.compiler import compile_file, library
for name in library.names():
    if name != "v_half":  # whose order is searched for, in seconds
        print(name, compile_file(name, ranks=4, microbatches=12).hash[:16])
"""


def bare(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with the stand-ins before what is installed."""
    path = ":".join([str(BARE), str(ROOT / "build/types"), str(ROOT)])
    command = [sys.executable, "-P", *arguments]
    environment = {"PYTHONPATH": path, "PATH": "", "DEVICE": "cpu"}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=100
    )


def test_stand_ins_make_the_same_plans() -> None:
    done = bare("-c", PLANS, "torch")
    assert not done.returncode, done.stderr
    found = dict(line.split() for line in done.stdout.splitlines())
    rows = [line.split() for line in (ROOT / "tests/cases/library.txt").read_text().splitlines()]
    expected = {row[0]: row[-1] for row in rows if row[1:3] == ["4", "12"]}
    assert len(found) >= 18 and found == {name: expected[name] for name in found}


def test_a_step_needs_nothing_but_torch() -> None:
    code = "import sys\nfor n in 'networkx rich shtab'.split(): sys.modules[n] = None\n"
    code += "from tests.gpu.__main__ import main\n"
    code += "sys.exit(main(['--only', 'parity', '--schedules', 'zb_v,dualpipe,moe_1f1b']))"
    done = bare("-c", code)
    assert not done.returncode, done.stdout + done.stderr
    assert "torch" in done.stdout and done.stdout.count("yes") == 3


def test_what_is_wrong_is_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from tests.gpu import parity
    from tests.gpu.__main__ import main

    if not torch.cuda.is_available():
        assert main(["--device", "cuda"]) == 2
        assert "there is no GPU that torch can use" in capsys.readouterr().out
    patch = pytest.MonkeyPatch()
    patch.setattr(parity, "CLOSE", -1.0)
    try:
        assert main(["--device", "cpu", "--only", "parity", "--schedules", "gpipe"]) == 1
    finally:
        patch.undo()
    assert "WRONG" in capsys.readouterr().out
