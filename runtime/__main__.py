"""`torchrun --nproc-per-node RANKS -m stretto.runtime PLAN --model MODULE:NAME`: trains a model by
a plan, a process per rank; with `--local` all ranks as threads of this process. Progress and errors
go to stderr, one line that sums it up to stdout. Exit code 0: done; 1: it could not be done, or
`--verify` found a difference; 2: the command line is wrong."""

import argparse
import os
import sys
from pathlib import Path
from typing import TextIO

from stretto.compiler.arguments import add_training
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
    if os.environ.pop("STRETTO_SAFEPATH", ""):  # as `stretto run` has it: not for what users start
        os.environ.pop("PYTHONSAFEPATH", None)
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
    add_training(parser, defaults=True)
    return parser


if __name__ == "__main__":
    end_with(main)
