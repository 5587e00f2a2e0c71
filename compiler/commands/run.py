"""`stretto run PLAN|FILE --model MODULE:NAME`: train on this machine, a process per rank. All it
does is start `torchrun` with `stretto.runtime`, and print the command it starts. What cannot work
is refused before that."""

import sys
from argparse import ArgumentParser, Namespace
from importlib.util import find_spec
from pathlib import Path

from stretto.compiler.arguments import SAVED, add_training, handed_on, natural
from stretto.compiler.commands import files
from stretto.compiler.commands.flags import FILE, add_inputs, add_messages, add_search
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
    groups = add_training(parser, defaults=False, without=("--seed",))  # the search's is for both
    groups[SAVED].add_argument(
        "--restarts",
        type=natural,
        metavar="N",
        help="start the ranks anew up to N times where one fails, from the newest checkpoint "
        "(default 0)",
    )


SEED = """\
start random numbers here: those of the search (default 0) and those of the training (default: as \
torch does)"""


def run(chosen: Namespace) -> int:
    """Train with the schedule or plan. Returns the exit code of the training."""
    if find_spec("torch") is None:
        raise files.Unusable(*NO_TORCH.split("\n"))
    files.must_be_somewhere()
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
    return [*words, "stretto.runtime", plan, *handed_on(chosen)]
