"""`torchrun --nproc-per-node RANKS -m stretto.runtime PLAN --model MODULE:NAME`: trains a model by
a plan, a process per rank; with `--local` all ranks as threads of this process. Progress and errors
go to stderr, one line that sums it up to stdout. Exit code 0: done; 1: it could not be done, or
`--verify` found a difference; 2: the command line is wrong."""

import argparse
import os
import sys
from pathlib import Path
from typing import TextIO

from stretto.runtime.aloud import ArgumentReader, say
from stretto.runtime.ending import end_with

STARTED = ("RANK", "WORLD_SIZE", "LOCAL_RANK")  # one of them: somebody starts ranks


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line, by default that of the process. Returns the exit code."""
    try:
        return _main(arguments)
    except KeyboardInterrupt:  # while torch is loaded, for seconds
        say("interrupted")
        return 130


def _main(arguments: list[str] | None) -> int:
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()
    _take_stderr()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost store is told by us, in a line
    chosen = _parser().parse_args(arguments)
    if Path(chosen.plan).suffix == ".pipe":
        say(
            f"error: {chosen.plan} is a schedule, not a plan: compile it first, "
            f"`stretto compile {chosen.plan} -o plan.jsonl`, or let `stretto run` do both"
        )
        return 2
    if chosen.checkpoint is None and (chosen.resume or chosen.checkpoint_every):
        say("error: name the folder of the checkpoints: --checkpoint FOLDER")
        return 2
    if not chosen.local and not any(name in os.environ for name in STARTED):
        say(
            "error: a rank is one process of many: start them with\n  torchrun --standalone "
            f"--nproc-per-node RANKS -m stretto.runtime {chosen.plan} --model {chosen.model}\n"
            "or run all of them in this process, with --local"
        )
        return 2
    if not chosen.local:
        from stretto.runtime.errors import PipelineError
        from stretto.runtime.train.environment import read_environment

        try:
            read_environment(os.environ)  # before torch is loaded, for seconds
        except PipelineError as error:
            say(f"error: {error}")
            return 2
    from stretto.runtime.train import launch
    from stretto.runtime.train.job import TrainingJob

    job = TrainingJob(
        plan=chosen.plan,
        model=chosen.model,
        data=chosen.data,
        steps=chosen.steps,
        verify=chosen.verify,
        trust=chosen.trust,
        timeout=chosen.timeout,
        eval_data=chosen.eval_data,
        accumulate=chosen.accumulate,
        clip=chosen.clip,
        log_every=chosen.log_every,
        eval_every=chosen.eval_every,
        seed=chosen.seed,
        amp=chosen.amp,
        on_nonfinite=chosen.on_nonfinite,
        checkpoint=chosen.checkpoint,
        checkpoint_every=chosen.checkpoint_every,
        keep=chosen.keep,
        resume=chosen.resume,
        device=chosen.device,
        check_messages=chosen.check_messages,
    )
    return launch.local(job) if chosen.local else launch.rank(job) or 0


def _nowhere() -> TextIO:
    """Stands in for a stream that is closed, as `>&-` leaves it."""
    return open(os.devnull, "w")


def _take_stderr() -> None:
    """`stretto run` hands its stderr to the ranks as their standard input: torchrun's own words do
    not come between theirs."""
    if os.environ.pop("STRETTO_STDERR", "") == "0":
        sys.stderr.flush()
        os.dup2(0, 2)
        nowhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nowhere, 0)
        os.close(nowhere)


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentReader(
        prog="python -m stretto.runtime", description="Train a model by a plan."
    )
    parser.add_argument("plan", metavar="PLAN", help="a plan that `stretto compile` wrote")
    parser.add_argument(
        "--model",
        required=True,
        metavar="MODULE:NAME",
        help="a Python object with stage(index, count), loss(output, target), and if you like "
        "optimizer(parameters), scheduler(optimizer), data, eval_data, after_step(done)",
    )
    parser.add_argument(
        "--data",
        metavar="MODULE:NAME",
        help="a Python function that is called with the number of the step and returns "
        "(x, target), the same on every rank; default: the model's own",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        help="where ranks compute; default: each on a GPU of its own where there are enough, else "
        "on the CPU",
    )
    _training_flags(parser)
    _checkpoint_flags(parser)
    parser.add_argument(
        "--verify",
        action="store_true",
        help="run the first step in one process too, and demand the same gradients",
    )
    parser.add_argument(
        "--check-messages",
        action="store_true",
        help="send before every message what it is, 256 bytes, and compare; default: not",
    )
    parser.add_argument("--trust", action="store_true", help="do not prove the plan again")
    parser.add_argument(
        "--timeout",
        type=_above_zero,
        default=60.0,
        metavar="SECONDS",
        help="seconds to wait for other ranks; default: 60",
    )
    parser.add_argument(
        "--local",
        action="store_true",
        help="all ranks as threads of this process, without torchrun",
    )
    return parser


def _training_flags(parser: argparse.ArgumentParser) -> None:
    """How the training goes."""
    add = parser.add_argument
    add("--steps", type=_positive, default=10, metavar="N", help="steps to train; default: 10")
    add(
        "--accumulate",
        type=_positive,
        default=1,
        metavar="N",
        help="batches for each step: their gradients are added, and are those of the mean; "
        "default: 1",
    )
    add(
        "--clip",
        type=_above_zero,
        metavar="NORM",
        help="clip the norm of all gradients to NORM; default: they are not clipped",
    )
    add(
        "--amp",
        choices=("bfloat16", "float16"),
        help="compute forwards under autocast in this type, with scaled losses for float16; "
        "default: in the types of the modules",
    )
    add(
        "--on-nonfinite",
        choices=("stop", "warn"),
        default="stop",
        help="what a loss or gradient does that is NaN or infinite; default: stop",
    )
    add(
        "--log-every",
        type=_positive,
        metavar="STEPS",
        help="steps from one line to the next; default: a line a few times a second",
    )
    add(
        "--eval-every",
        type=_positive,
        metavar="STEPS",
        help="steps from one evaluation to the next; default: none",
    )
    add(
        "--eval-data",
        metavar="MODULE:NAME",
        help="batches of (x, target) to evaluate on, or a function that gives them, the same on "
        "every rank; default: the model's own",
    )
    add(
        "--seed",
        type=int,
        metavar="N",
        help="start torch's random numbers here: before a stage is built at a place that depends "
        "on N and the stage, before the first step on N and the rank (with --local, ranks share "
        "them); default: as torch does",
    )


def _checkpoint_flags(parser: argparse.ArgumentParser) -> None:
    """How it is saved and gone on with."""
    add = parser.add_argument
    add(
        "--checkpoint",
        metavar="FOLDER",
        help="write checkpoints below FOLDER, which all ranks can reach; default: none",
    )
    add(
        "--checkpoint-every",
        type=_positive,
        metavar="STEPS",
        help="steps from one checkpoint to the next; default: one at the end",
    )
    add(
        "--keep",
        type=_positive,
        default=3,
        metavar="N",
        help="checkpoints to keep, the newest; default: 3",
    )
    add(
        "--resume",
        action="store_true",
        help="go on from the newest checkpoint below FOLDER, if there is one, up to --steps; "
        "torchrun's restarts do so by themselves",
    )


def _above_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"`{text}` is no number above 0")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


if __name__ == "__main__":
    end_with(main)
