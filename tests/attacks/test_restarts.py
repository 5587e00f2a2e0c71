"""A training that is killed again and again, whenever it may be, ends as one that was left alone:
the losses of every step, the weights, what optimizers and schedulers keep, random numbers and the
position in the data, bit for bit."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from stretto.compiler.plan.plan import write_plan
from stretto.runtime.checkpoint import latest
from tests.support import resuming
from tests.support.training import compiled

pytestmark = [pytest.mark.xdist_group("ranks"), pytest.mark.full, pytest.mark.timeout(1500)]

STEPS, KILLS = 24, 10


@pytest.mark.parametrize("name", ["dualpipe", "zb_h1"])
def test_a_run_that_is_killed_ten_times_ends_as_an_undisturbed_one(
    name: str, tmp_path: Path
) -> None:
    plan, draw = tmp_path / "a.plan", random.Random(name)
    write_plan(compiled(name, ranks=2, microbatches=8), plan)
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    module = ["-m", "stretto.runtime"]
    told = resuming.losses(
        resuming.trained(resuming.torchrun(2, *module, *resuming.words(plan, calm, STEPS)))
    )
    found: dict[int, str] = {}
    command = resuming.torchrun(2, *module, *resuming.words(plan, rough, STEPS, "--resume"))
    kills = 0
    while kills < KILLS:
        last = latest(rough) or 0
        goal = min(STEPS - 2, last + draw.randint(0, 3))
        found |= killed(command, rough, goal, draw.uniform(0.0, 0.2))
        kills += 1
    found |= resuming.losses(resuming.trained(command))
    assert found == told
    assert resuming.same(resuming.contents(rough, STEPS), resuming.contents(calm, STEPS))
    assert all(entry.name.startswith("step-000000") for entry in rough.iterdir())


def killed(command: list[str], folder: Path, goal: int, more: float) -> dict[int, str]:
    """Runs until a checkpoint of step `goal` is there (or ranks have been made, where it is there
    already) and a little longer, then kills everything; the losses that were printed."""
    log = folder.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        end = time.monotonic() + 100
        while time.monotonic() < end and process.poll() is None:
            if (latest(folder) or 0) >= goal and b"step " in log.read_bytes():
                break
            time.sleep(0.01)
        time.sleep(more)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return resuming.losses(log.read_text(errors="replace"))
