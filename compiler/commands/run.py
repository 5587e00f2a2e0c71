"""`stretto run PLAN|FILE --model MODULE:NAME`: train on this machine, a process per rank. All it
does is start `torchrun` with `stretto.runtime`, and print the command it starts. What cannot work
is refused before that."""

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from importlib.util import find_spec
from pathlib import Path

from stretto.compiler.commands import files
from stretto.compiler.commands.flags import (
    FILE,
    add_inputs,
    add_messages,
    add_search,
    natural,
    positive,
    seconds,
)
from stretto.compiler.commands.load import load
from stretto.compiler.commands.startable import check_named, check_plan
from stretto.compiler.commands.training import Janitor, Training
from stretto.compiler.plan.plan import write_plan
from stretto.compiler.show.summary import step_of

NO_TORCH = """\
training needs PyTorch, which is not installed here. For CPUs:
  pip install torch numpy --index-url https://download.pytorch.org/whl/cpu
or, with the build that PyPI offers: pip install 'stretto[run]'"""

EXAMPLES = """\
  stretto run dualpipe --set ranks=4 --set microbatches=8 \\
    --model examples/gpt.py:MODEL --data examples/gpt.py:DATA
  stretto run mine.plan --model model.py:MODEL --data model.py:DATA --steps 100 --verify"""


def add(parser: ArgumentParser) -> None:
    """The flags of `run`."""
    add_inputs(parser)
    add_search(parser, seed=SEED)
    parser.set_defaults(seed=None)
    add_messages(parser)
    parser.add_argument("file", metavar="FILE", help=FILE)
    parser.add_argument(
        "--model",
        required=True,
        metavar="MODULE:NAME",
        help="a Python object with `stage(index, count)` and `loss(output, target)`",
    )
    parser.add_argument(
        "--data",
        metavar="MODULE:NAME",
        help="a Python function that is called with the number of the step and returns "
        "`(x, target)` (default: the model's own `data`)",
    )
    parser.add_argument(
        "--steps", type=positive, metavar="N", help="train for N steps (default 10)"
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        help="where ranks compute (default: on GPUs where each can have its own)",
    )
    _training_flags(parser)
    _checkpoint_flags(parser)
    parser.add_argument(
        "--timeout",
        type=_patience,
        metavar="SECONDS",
        help="seconds (2.5, 90s; 3m are minutes) to wait for other ranks (default 60)",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="compare gradients with those of one process, bit by bit",
    )
    parser.add_argument(
        "--check-messages",
        action="store_true",
        help="send before every message what it is (256 bytes), and compare (default: not)",
    )
    parser.add_argument("--trust", action="store_true", help="do not prove the plan on every rank")
    parser.add_argument(
        "--local", action="store_true", help="run all ranks as threads of one process"
    )


def _training_flags(parser: ArgumentParser) -> None:
    """How the training goes: handed on as they are."""
    flags = parser.add_argument_group("training")
    flags.add_argument(
        "--accumulate",
        type=positive,
        metavar="N",
        help="batches for each step, whose gradients are added (default 1)",
    )
    flags.add_argument(
        "--clip",
        type=_norm,
        metavar="NORM",
        help="clip the norm of all gradients to NORM (default: not)",
    )
    flags.add_argument(
        "--amp",
        choices=("bfloat16", "float16"),
        help="compute forwards under autocast in this type (default: in the modules' own)",
    )
    flags.add_argument(
        "--on-nonfinite",
        choices=("stop", "warn"),
        help="what a loss or gradient does that is NaN or infinite (default stop)",
    )
    flags.add_argument(
        "--log-every",
        type=positive,
        metavar="STEPS",
        help="steps from one line to the next (default: a line a few times a second)",
    )
    flags.add_argument(
        "--eval-every",
        type=positive,
        metavar="STEPS",
        help="steps from one evaluation to the next (default: none)",
    )
    flags.add_argument(
        "--eval-data",
        metavar="MODULE:NAME",
        help="batches of `(x, target)` to evaluate on, or a function that gives them (default: "
        "the model's own)",
    )


def _checkpoint_flags(parser: ArgumentParser) -> None:
    """How it is saved and gone on with."""
    flags = parser.add_argument_group("checkpoints")
    flags.add_argument(
        "--checkpoint", metavar="FOLDER", help="write checkpoints below FOLDER (default: none)"
    )
    flags.add_argument(
        "--checkpoint-every",
        type=positive,
        metavar="STEPS",
        help="steps from one checkpoint to the next (default: one at the end)",
    )
    flags.add_argument(
        "--keep", type=positive, metavar="N", help="checkpoints to keep, the newest (default 3)"
    )
    flags.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest checkpoint below FOLDER, if there is one, up to --steps",
    )
    flags.add_argument(
        "--restarts",
        type=natural,
        metavar="N",
        help="start the ranks anew up to N times where one fails, from the newest checkpoint "
        "(default 0)",
    )


def _norm(text: str) -> float:
    """A number above 0. Raises `ArgumentTypeError`."""
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise ArgumentTypeError(f"`{text}` is no number above 0")
    return value


def _patience(text: str) -> float:
    """Seconds above 0. Raises `ArgumentTypeError`."""
    value = seconds(text)
    if not value:
        raise ArgumentTypeError("without any time no other rank can be waited for: more than 0")
    return value


SEED = """\
start random numbers here: those of the search (default 0) and those of the training (default: as \
torch does)"""

HANDED_ON = (
    "device",
    "data",
    "steps",
    "timeout",
    "accumulate",
    "clip",
    "amp",
    "on-nonfinite",
    "log-every",
    "eval-every",
    "eval-data",
    "seed",
    "checkpoint",
    "checkpoint-every",
    "keep",
)
"""Flags with a value that the ranks are given."""


def run(chosen: Namespace) -> int:
    """Train with the schedule or plan. Returns the exit code of the training."""
    if find_spec("torch") is None:
        raise files.Unusable(*NO_TORCH.split("\n"))
    check_named("--model", chosen.model)
    if chosen.data is not None:
        check_named("--data", chosen.data)
    if chosen.checkpoint is None and (chosen.resume or chosen.checkpoint_every or chosen.restarts):
        raise files.Unusable("name the folder of the checkpoints: --checkpoint FOLDER")
    if chosen.restarts and chosen.local:
        raise files.Unusable("--restarts starts processes anew, and --local has none")
    seed = 0 if files.is_plan(chosen.file) else chosen.seed or 0  # a plan is not searched for
    plan = load(chosen.file, Namespace(**{**vars(chosen), "seed": seed}))
    if chosen.eval_every is not None and plan.no_evaluation:
        raise files.Unusable(
            f"--eval-every: `{chosen.file}` has no evaluation: {plan.no_evaluation}"
        )
    ranks = plan.programs[step_of(plan)].spec.ranks
    with Training() as training, Janitor() as janitor:
        path = chosen.file
        if not (
            files.is_plan(path) and files.by_name(path)
        ):  # ranks read it by its name, each for itself
            path = str(Path(janitor.folder, "plan.json"))
            write_plan(plan, path)
        check_plan(path, ranks)
        return training.run(command(path, ranks, chosen), janitor)


def command(plan: str, ranks: int, chosen: Namespace) -> list[str]:
    """The command line of the training."""
    words = [sys.executable, "-m"]
    if not chosen.local:
        words += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        if chosen.restarts:
            words += ["--max-restarts", str(chosen.restarts)]
        words.append("-m")
    words += ["stretto.runtime", plan, "--model", chosen.model]
    for flag in HANDED_ON:
        value = getattr(chosen, flag.replace("-", "_"))
        if value is not None:
            text = str(value).removesuffix(".0") if isinstance(value, float) else str(value)
            words += [f"--{flag}", text]
    flags = ("verify", "check-messages", "trust", "local", "resume")
    return words + [f"--{flag}" for flag in flags if getattr(chosen, flag.replace("-", "_"))]
