"""`python -m stretto.runtime`, as a user types it: under torchrun, and in one process."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stretto.compiler.plan.plan import Plan, write_plan
from stretto.runtime import Executor, Model, PipelineError
from stretto.runtime.__main__ import main
from stretto.runtime.topology import StageId
from stretto.runtime.train.find import find
from stretto.runtime.train.model import Models
from tests.support.paths import ROOT
from tests.support.ranks import run
from tests.support.training import compiled, spec_of

pytestmark = pytest.mark.xdist_group("ranks")  # one after the other: they wait for each other

GPT = str(ROOT / "examples/gpt.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]

MODELS = """
import torch
from torch import nn

class Good:
    def stage(self, index, count):
        torch.manual_seed(index)
        return nn.Linear(4, 4)
    def loss(self, output, target):
        return (output - target).square().mean()

class Short(Good):
    def stage(self, index, count):
        return [nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)][index]

class Bad(Good):
    def stage(self, index, count):
        return nn.Linear(4, 4 if index != 1 else 5)

def data(step):
    draw = torch.Generator().manual_seed(step)
    return torch.randn(16, 4, generator=draw), torch.zeros(16, 4)

good, short, bad = Good(), Short(), Bad()
"""

OPTIMIZERS = (
    MODELS
    + """
def fail(error):
    raise error

def model(optimizer):
    found = Good()
    found.optimizer = optimizer
    return found

class Late(torch.optim.SGD):
    def step(self):
        raise ZeroDivisionError("step")

fails = model(lambda parameters: fail(ValueError("lr")))
none = model(lambda parameters: None)
late = model(lambda parameters: Late(parameters, lr=0.1))
"""
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MODELS)
    write_plan(compiled("dualpipe", ranks=4, microbatches=8), tmp_path / "dualpipe.plan")
    write_plan(compiled("one_f_one_b", ranks=2, microbatches=4), tmp_path / "small.plan.gz")
    return tmp_path


def start(
    folder: Path, *words: str, ranks: int = 0, **more: str
) -> subprocess.CompletedProcess[str]:
    launcher = [*TORCHRUN, str(ranks)] if ranks else [sys.executable]
    return subprocess.run(
        [*launcher, "-m", "stretto.runtime", *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **more},
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_a_gpt_trained_by_dualpipe_and_verified(folder: Path) -> None:
    words = ("--model", f"{GPT}:MODEL", "--data", f"{GPT}:DATA", "--steps", "3", "--verify")
    more = ("--clip", "50", "--eval-every", "3", "--log-every", "1")
    done = start(folder, "dualpipe.plan", *words, *more, ranks=4)
    assert done.returncode == 0, done.stderr
    assert "8 losses and all gradients are equal, bit for bit" in done.stderr
    assert re.search(r"^step 3/3  loss \d\.\d{4}  [\d,]+ tokens/s$", done.stderr, re.M)
    assert re.search(r"^step 3/3  eval loss [34]\.\d{4}$", done.stderr, re.M)
    pattern = r"dualpipe on 4 ranks: 3 steps in [\d.]+ s, loss 5\.\d+ -> 4\.\d+, [\d,]+ tokens/s"
    assert re.fullmatch(pattern, done.stdout.strip())


def test_a_model_that_lacks_a_stage_is_told_once(folder: Path) -> None:
    done = start(folder, "dualpipe.plan", "--model", "mine:short", "--data", "mine:data", ranks=4)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    words = (
        "--model mine:short cannot build stage 3 of 4: IndexError: list index out of range; "
        "the plan asks for 4 stages: does the model have as many?"
    )
    assert re.fullmatch(f"error: rank [03]: {re.escape(words)}", lines[0])


def test_a_module_that_fails_shows_its_own_traceback(folder: Path) -> None:
    done = start(folder, "small.plan.gz", "--model", "mine:bad", "--data", "mine:data", ranks=2)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "rank 1 computes `F main[1, 0]` (one_f_one_b.pipe:" in lines[0]
    assert "fails at step 1: RuntimeError: The size of tensor a (5) must match" in lines[0]
    assert re.search(r'mine.py", line \d+, in loss', done.stderr)


def test_a_traceback_has_the_users_frames_alone_and_the_sentence_last(folder: Path) -> None:
    words = ("small.plan.gz", "--model", "mine:bad", "--data", "mine:data", "--local")
    *trace, last = start(folder, *words).stderr.splitlines()
    assert "fails at step 1: RuntimeError: The size of tensor a (5) must match" in last
    places = [re.search(r'File "(.*)", line \d+, in (\w+)', line) for line in trace]
    assert [(Path(at[1]).name, at[2]) for at in places if at] == [("mine.py", "loss")]
    assert "RuntimeError" not in "".join(trace) and len(trace) < 6
    *trace, again = start(folder, *words, STRETTO_TRACEBACK="full").stderr.splitlines()
    assert again == last
    assert "mine.py" in "".join(trace) and "runtime/interpreter.py" in "".join(trace)


def test_an_error_without_a_frame_of_the_users_is_a_sentence(folder: Path) -> None:
    """An ordinary torch module that is given the wrong shape, in all ranks alike."""
    (folder / "mine.py").write_text(
        MODELS
        + "narrow = Good()\n"
        + "narrow.stage = lambda index, count: torch.nn.Linear(4 + index, 4)\n"
    )
    done = start(
        folder, "small.plan.gz", "--model", "mine:narrow", "--data", "mine:data", "--local"
    )
    (line,) = done.stderr.splitlines()
    assert "error: rank 1 computes `F main[1, 0]`" in line and "mat1 and mat2 shapes" in line


def test_the_wrong_number_of_ranks(folder: Path) -> None:
    done = start(folder, "dualpipe.plan", "--model", "mine:good", "--data", "mine:data", ranks=2)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "the plan is for 4 ranks, and there are 2: start 4" in lines[0]


def test_ranks_without_torchrun_name_who_is_missing(folder: Path) -> None:
    alone = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    words = ["small.plan.gz", "--model", "mine:good", "--data", "mine:data", "--timeout", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "stretto.runtime", *words],
        cwd=folder,
        env={**os.environ, **alone},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "error: rank 1 did not come within 1 s: is every process started?" in done.stderr


def test_all_ranks_in_one_process(folder: Path) -> None:
    words = ("--model", "mine:good", "--data", "mine:data", "--steps", "4", "--local", "--verify")
    done = start(folder, "dualpipe.plan", *words)
    assert done.returncode == 0, done.stderr
    assert "equal, bit for bit" in done.stderr and "samples/s" in done.stderr
    assert done.stdout.startswith("dualpipe on 4 ranks: 4 steps in ")


def test_interrupted_all_ranks_of_one_process_end(folder: Path) -> None:
    words = ["small.plan.gz", "--model", "mine.py:good", "--data", "mine.py:data"]
    words += ["--steps", "100000000", "--local"]
    process = subprocess.Popen(
        [sys.executable, "-m", "stretto.runtime", *words],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    try:
        assert process.stderr.readline().startswith("step 1/100000000")
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert told.splitlines()[-1] == "interrupted"


def test_a_plan_of_forwards_has_nothing_to_train(folder: Path) -> None:
    write_plan(compiled("inference", ranks=2, microbatches=4), folder / "forwards.plan")
    words = ("--model", "mine.py:good", "--data", "mine.py:data", "--local", "--verify")
    done = start(folder, "forwards.plan", *words)
    assert done.returncode == 1
    assert done.stderr == "error: this plan has only its forwards, and so nothing to train with\n"


# The command line -------------------------------------------------------------------------------


def test_what_is_refused_before_anything_is_started(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert main(["x.pipe", "--model", "m:M"]) == 2
    assert "x.pipe is a schedule, not a plan: compile it first" in capsys.readouterr().err
    assert main(["x.plan", "--model", "m:M"]) == 2
    assert "torchrun --standalone --nproc-per-node RANKS -m stretto.runtime x.plan" in (
        capsys.readouterr().err
    )
    with pytest.raises(SystemExit, match="2"):
        main(["x.plan", "--model", "m:M", "--steps", "0"])


def test_names_that_mean_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    assert find("mine:good", "model").stage(0, 2).weight.shape == (4, 4)
    assert find("mine.py:data", "data")(1)[0].shape == (16, 4)
    for name, words in [
        ("mine", "--model mine: write it as MODULE:NAME"),
        ("mine:other", "--model mine:other: mine has no other"),
        ("nowhere:x", "importing nowhere fails: ModuleNotFoundError"),
        ("no/file.py:x", "there is no file no/file.py"),
    ]:
        with pytest.raises(PipelineError) as stopped:
            find(name, "model")
        assert words in str(stopped.value)


def test_an_optimizer_that_is_none_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it cannot be made, is none, or fails at its first step."""
    monkeypatch.chdir(folder)
    (folder / "odd.py").write_text(OPTIMIZERS)
    for name, words in (
        ("fails", r"fails, rank [01]: optimizer\(parameters\) fails: ValueError: lr"),
        ("none", r"none, rank [01]: optimizer\(parameters\) gave a NoneType, not an optimizer"),
        ("late", r"late: its optimizer fails on rank [01] at step 1: ZeroDivisionError: step"),
    ):
        flags = ["--model", f"odd.py:{name}", "--data", "odd.py:data", "--local"]
        assert main(["small.plan.gz", *flags]) == 1
        errors = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
        assert len(errors) == 1
        assert re.match(rf"error: (rank \d: )?--model odd.py:{words}", errors[0])


def linear(index: int, count: int) -> nn.Module:
    return nn.Linear(index + 1, count)


class Both:
    policy = Model(linear)
    value = linear


@pytest.mark.parametrize("given", [{"policy": Model(linear), "value": linear}, Both, linear])
def test_where_models_come_from(given: Any) -> None:
    spec = spec_of(compiled("two_models", ranks=2, microbatches=4))
    names = [pipeline.model or pipeline.name for pipeline in spec.pipelines]
    assert len(names) == 2
    if isinstance(given, dict):
        given = dict(zip(names, given.values(), strict=True))
    elif given is Both:
        given = type("Both", (), dict(zip(names, (Model(linear), linear), strict=True)))
    models = Models(spec, given, "--model m:M")
    assert models.stage(StageId(1, 1)).weight.shape == (2, 2)


def test_models_that_are_none() -> None:
    spec = spec_of(compiled("two_models", ranks=2, microbatches=4))
    name = spec.pipelines[1].model or spec.pipelines[1].name
    with pytest.raises(PipelineError, match=f"m:M has no model '{name}', which the plan asks for"):
        Models(spec, {spec.pipelines[0].model or spec.pipelines[0].name: linear}, "--model m:M")
    one = spec_of(compiled("gpipe", ranks=2, microbatches=2))
    with pytest.raises(PipelineError, match="m:M is a Linear: a model has"):
        Models(one, nn.Linear(1, 1), "m:M")
    with pytest.raises(PipelineError, match="m:M has no stage 0 of 2: it gave a NoneType"):
        Models(one, lambda index, count: None, "m:M").stage(StageId(0, 0))


# The example ------------------------------------------------------------------------------------


def curve(rank: int, plan: Plan, steps: int) -> list[list[float]]:
    """The losses of this rank's micro-batches, summed, by step."""
    gpt = find(f"{GPT}:MODEL", "model")
    data = find(f"{GPT}:DATA", "data")
    spec = spec_of(plan)
    stages = {
        (pipeline.name, s): gpt.stage(s, len(pipeline.stages))
        for pipeline in spec.pipelines
        for s, stage in enumerate(pipeline.stages)
        if stage.rank == rank
    }
    optimizer = gpt.optimizer([p for stage in stages.values() for p in stage.parameters()])
    executor = Executor(plan, stages, gpt.loss, timeout=60)
    found: list[list[float]] = []
    for step in range(1, steps + 1):
        x, target = data(step)
        losses: list[torch.Tensor] = []
        executor.step(x, target=target, losses=losses, return_outputs=False)
        optimizer.step()
        optimizer.zero_grad()
        found.append([loss.item() for loss in losses])
    executor.close()
    return found


@pytest.mark.parametrize("name", ["zb_h1", "dualpipe"])
def test_the_examples_curve_is_that_of_one_process(name: str) -> None:
    """Bit for bit where the plan adds in the order of the micro-batches."""
    torch.set_num_threads(1)
    steps, plan = 4, compiled(name, ranks=2, microbatches=4)
    outcome = run(2, curve, plan, steps)
    ends = (1, 0) if name == "dualpipe" else (1,)
    found = [sum(sum(outcome.results[rank][step]) for rank in ends) / 4 for step in range(steps)]
    expected = find(f"{GPT}:alone", "model")(2, 4, steps)
    if name == "zb_h1":
        assert found == expected
    assert found == pytest.approx(expected, rel=1e-5)
    assert expected[-1] < 0.8 * expected[0]


SHADOWS = ("queue", "stretto", "torch", "typing")
"""Names of modules that are loaded before the user's: files of these names are other ones."""


def test_files_of_the_users_are_not_loaded_in_place_of_others(folder: Path) -> None:
    for name in SHADOWS:
        (folder / f"{name}.py").write_text("raise SystemExit('the wrong file')\n")
    (folder / "beside.py").write_text("SEED = 3\n")
    (folder / "models").mkdir()
    child = (
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, 'models/child.py'], check=True)\n"  # finds what is beside
    )
    (folder / "models/child.py").write_text("import sibling\n")
    (folder / "models/sibling.py").write_text("")
    (folder / "models/m.py").write_text(f"import beside\n{child}{MODELS}")
    words = ["run", "small.plan.gz", "--model", "models/m.py:good", "--data", "models/m.py:data"]
    code = f"import sys; from stretto.compiler.cli import main; sys.exit(main({words}))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=folder, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert "one_f_one_b on 2 ranks: 10 steps" in done.stdout
