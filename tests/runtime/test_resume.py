"""`--resume`, and torchrun's restarts: a training that was interrupted ends as one that was not."""

from pathlib import Path

import pytest

from stretto.compiler.plan.plan import write_plan
from stretto.runtime.__main__ import main
from stretto.runtime.checkpoint import latest
from tests.support import resuming
from tests.support.training import compiled

pytestmark = pytest.mark.xdist_group("ranks")
STEPS = 5


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "dualpipe.plan"
    write_plan(compiled("dualpipe", ranks=2, microbatches=8), path)
    return path


def test_a_rank_that_is_killed_is_started_again_from_the_last_checkpoint(
    plan: Path, tmp_path: Path
) -> None:
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    module = ["-m", "stretto.runtime"]
    told = resuming.trained(resuming.torchrun(2, *module, *resuming.words(plan, calm, STEPS)))
    again = resuming.trained(
        resuming.torchrun(2, "--max-restarts", "1", *module, *resuming.words(plan, rough, STEPS)),
        DIE="1/3",
        DIED=str(tmp_path / "died"),
    )
    assert (tmp_path / "died").exists()
    assert resuming.losses(again) == resuming.losses(told)
    assert len(resuming.losses(told)) == STEPS
    assert resuming.same(resuming.contents(rough, STEPS), resuming.contents(calm, STEPS))
    assert sorted(p.name for p in rough.iterdir()) == ["step-00000004", "step-00000005"]


def test_threads_of_one_process_go_on(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "kept"
    shared = ("--local", "--data", f"{resuming.TRAINEE}:plain")  # DATA counts for each process
    assert main([*resuming.words(plan, folder, 2), *shared]) == 0
    capsys.readouterr()
    assert main([*resuming.words(plan, folder, 3), *shared]) == 1
    assert f"{folder} has a checkpoint of step 2: go on from it with" in capsys.readouterr().err
    assert main([*resuming.words(plan, folder, 3, "--resume"), *shared]) == 0
    assert list(resuming.losses(capsys.readouterr().err)) == [3]
    assert latest(folder) == 3
    assert main([*resuming.words(plan, folder, 3, "--resume"), *shared]) == 0


def test_flags_without_a_folder_are_refused(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(plan), "--model", "m:M", "--resume"]) == 2
    assert "--checkpoint FOLDER" in capsys.readouterr().err
