"""`torchrun --nproc-per-node RANKS -m stretto.runtime PLAN --model MODULE:NAME`: trains a model by
a plan, a process per rank; with `--local` all ranks as threads of this process. Progress and errors
go to stderr, one line that sums it up to stdout. Exit code 0: done; 1: it could not be done, or
`--verify` found a difference; 2: the command line is wrong."""

import argparse
import os
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line, by default that of the process. Returns the exit code."""
    chosen = _parser().parse_args(arguments)
    if Path(chosen.plan).suffix == ".pipe":
        print(
            f"error: {chosen.plan} is a schedule, not a plan: compile it first, "
            f"`stretto compile {chosen.plan} -o plan.jsonl`, or let `stretto run` do both",
            file=sys.stderr,
        )
        return 2
    if not chosen.local and "RANK" not in os.environ:
        print(
            "error: a rank is one process of many: start them with\n  torchrun --standalone "
            f"--nproc-per-node RANKS -m stretto.runtime {chosen.plan} --model {chosen.model}\n"
            "or run all of them in this process, with --local",
            file=sys.stderr,
        )
        return 2
    from stretto.runtime.train import launch
    from stretto.runtime.train.loop import TrainingJob

    job = TrainingJob(
        plan=chosen.plan,
        model=chosen.model,
        data=chosen.data,
        steps=chosen.steps,
        verify=chosen.verify,
        trust=chosen.trust,
        timeout=chosen.timeout,
    )
    return launch.local(job) if chosen.local else launch.rank(job) or 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m stretto.runtime", description="Train a model by a plan."
    )
    parser.add_argument("plan", metavar="PLAN", help="a plan that `stretto compile` wrote")
    parser.add_argument(
        "--model",
        required=True,
        metavar="MODULE:NAME",
        help="an object with stage(index, count), loss(output, target), and if you like "
        "optimizer(parameters)",
    )
    parser.add_argument(
        "--data",
        metavar="MODULE:NAME",
        help="a function step -> (x, target), the same on every rank; default: the model's own",
    )
    parser.add_argument(
        "--steps", type=_positive, default=10, metavar="N", help="steps to train; default: 10"
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="run the first step in one process too, and demand the same gradients",
    )
    parser.add_argument("--trust", action="store_true", help="do not prove the plan again")
    parser.add_argument(
        "--timeout",
        type=float,
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


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
