"""`report_errors`: a training loop of one's own, under torchrun, that ends by an error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stretto.compiler.plan.plan import write_plan
from stretto.runtime import report_errors
from tests.runtime.test_launch import TORCHRUN
from tests.support.training import compiled

pytestmark = pytest.mark.xdist_group("ranks")  # one after the other: they wait for each other

LOOP = """
import sys
import torch
import torch.distributed as dist
from torch import nn
from stretto.runtime import Executor, report_errors, stages_of

plan, fault = sys.argv[1:]

class Touchy(nn.Linear):
    def forward(self, x):
        if fault == "stage" and rank == 1 and step == 2:
            raise ValueError("of the stage")
        return super().forward(x)

with report_errors():
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    stages = {key: Touchy(4, 4) for key in stages_of(plan, rank)}
    executor = Executor(plan, stages, nn.functional.mse_loss)
    try:
        for step in (1, 2, 3):
            if fault == "data" and rank == 1 and step == 2:
                raise KeyError("of the data")
            executor.step(torch.ones(8, 4), target=torch.ones(8, 4))
    finally:
        print(f"rank {rank} is over", flush=True)
"""


@pytest.mark.parametrize(
    ("fault", "sentence", "own"),
    [
        ("stage", "at step 2: ValueError: of the stage", 'raise ValueError("of the stage")'),
        ("data", "error: rank 1 fails: KeyError: 'of the data'", 'raise KeyError("of the data")'),
    ],
)
def test_one_rank_tells_for_all(fault: str, sentence: str, own: str, tmp_path: Path) -> None:
    script, plan = tmp_path / "loop.py", tmp_path / "plan.jsonl"
    script.write_text(LOOP)
    write_plan(compiled("one_f_one_b", ranks=2, microbatches=4), plan)
    done = subprocess.run(
        [*TORCHRUN, "2", str(script), str(plan), fault],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    ours = done.stderr.split("torch/distributed/elastic")[0]
    told = [line for line in ours.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and sentence in told[0]
    assert own in ours and "runtime/" not in ours and "torch/nn" not in ours
    assert sentence.removeprefix("error: ") in done.stderr.split("Root Cause")[1]  # torchrun's own
    assert "terminate called" not in done.stderr
    assert "rank 1 is over" in done.stdout


def test_other_ends_pass(capsys: pytest.CaptureFixture[str]) -> None:
    for other in (SystemExit(7), KeyboardInterrupt()):
        with pytest.raises(type(other)) as raised, report_errors():
            raise other
        assert raised.value is other
    assert not capsys.readouterr().err


def test_an_end_without_a_group_is_told_too() -> None:
    """As where it cannot be made. What is around it still runs."""
    script = (
        "from stretto.runtime import PipelineError, report_errors\n"
        "try:\n"
        "    with report_errors():\n"
        "        raise PipelineError('no \\x1b[31m group')\n"
        "finally:\n"
        "    print('around', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "around\n"
    assert done.stderr == "error: rank 0: no \\x1b[31m group\n"
