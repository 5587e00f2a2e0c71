"""`stretto run PLAN|FILE --model MODULE:NAME`: train on this machine, a process per rank. All it
does is start `torchrun` with `stretto.runtime`, and print the command it starts."""

import os
import shlex
import subprocess
import sys
from argparse import Namespace
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from stretto.compiler.commands import files
from stretto.compiler.commands.load import load
from stretto.compiler.plan import write_plan
from stretto.compiler.summary import step_of

NO_TORCH = """\
training needs PyTorch, which is not installed here. For CPUs:
  pip install torch numpy --index-url https://download.pytorch.org/whl/cpu
or, with the build that PyPI offers: pip install 'stretto[run]'"""


def run(chosen: Namespace) -> int:
    """Returns the exit code of the training."""
    if find_spec("torch") is None:
        raise files.Unusable(NO_TORCH)
    plan = load(chosen.file, chosen)
    ranks = plan.programs[step_of(plan)].spec.ranks
    with TemporaryDirectory(prefix="stretto-") as folder:
        path = chosen.file
        if not files.is_plan(path):
            path = str(Path(folder, "plan.json"))
            write_plan(plan, path)
        return started(command(path, ranks, chosen))


def command(plan: str, ranks: int, chosen: Namespace) -> list[str]:
    """The command line of the training."""
    words = [sys.executable, "-m"]
    if not chosen.local:
        words += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"]
    words += ["stretto.runtime", plan, "--model", chosen.model]
    for flag in ("data", "steps", "timeout"):
        if getattr(chosen, flag) is not None:
            words += [f"--{flag}", str(getattr(chosen, flag))]
    return words + [f"--{flag}" for flag in ("verify", "local") if getattr(chosen, flag)]


def started(words: list[str]) -> int:
    """Run the command to its end, also when it is interrupted: it tidies up by itself."""
    files.say(f"$ {shlex.join(words)}")
    environment = {"OMP_NUM_THREADS": "1", **os.environ}  # a process per rank is enough
    with subprocess.Popen(words, env=environment) as process:
        while process.poll() is None:
            with suppress(KeyboardInterrupt):
                process.wait()
    return process.returncode
