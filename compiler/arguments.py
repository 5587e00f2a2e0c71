"""What both command lines know: `stretto run`, which starts a training, and `python -m
stretto.runtime`, which a rank of it is. Each flag of a training is a row of `TRAINING`, of which
both read; what the first is given, `handed_on` makes words for the second of. Below stand the types
of arguments, each of which raises `ArgumentTypeError`.
"""

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from argparse import _ActionsContainer


class TrainingFlag(NamedTuple):
    """A flag of a training. `default` is what ranks take where it is not given, and `otherwise`
    says in words what happens then where that is None. With a `type` it takes a value, called
    `metavar` or one of `choices`; without one it is a switch. `group` is the heading it stands
    under in the help."""

    name: str
    help: str
    default: Any = None
    otherwise: str = ""
    type: Callable[[str], Any] | None = str
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    group: str = ""

    @property
    def field(self) -> str:
        """What argparse calls it."""
        return self.name.removeprefix("--").replace("-", "_")

    @property
    def told(self) -> str:
        """Its help, the default included."""
        if self.otherwise:
            return f"{self.help} (default: {self.otherwise})"
        if self.default is None:
            return self.help
        default = f"{self.default:g}" if isinstance(self.default, float) else self.default
        return f"{self.help} (default {default})"


def add_training(
    parser: ArgumentParser, *, defaults: bool, without: Collection[str] = ()
) -> "dict[str, _ActionsContainer]":
    """Gives a parser the flags of a training but those `without`. With `defaults` a flag that is
    not given has its default, else None (a switch False): what was given can be handed on. Returns
    where further flags may be added, by their heading."""
    groups: dict[str, _ActionsContainer] = {"": parser}
    for flag in TRAINING:
        if flag.name in without:
            continue
        if flag.group not in groups:
            groups[flag.group] = parser.add_argument_group(flag.group)
        add = groups[flag.group].add_argument
        if flag.type is None:
            add(flag.name, action="store_true", help=flag.told)
            continue
        add(
            flag.name,
            type=flag.type,
            metavar=flag.metavar,
            choices=flag.choices,
            required=flag.name == "--model",
            default=flag.default if defaults else None,
            help=flag.told,
        )
    return groups


def handed_on(chosen: Namespace) -> list[str]:
    """The words that say to a rank what `chosen` says, which was read without defaults: values
    first, then switches."""
    given = [(flag, getattr(chosen, flag.field)) for flag in TRAINING]
    words = [
        word
        for flag, value in given
        if flag.type is not None and value is not None
        for word in (flag.name, str(value).removesuffix(".0"))
    ]
    return words + [flag.name for flag, value in given if flag.type is None and value]


# ---------------------------------------------------------------------------- types of arguments


def natural(text: str) -> int:
    """A whole number from 0."""
    if not text.isdecimal() or len(text) > 18:
        raise ArgumentTypeError(f"`{text}` is not a whole number from 0 on")
    return int(text)


def positive(text: str) -> int:
    """A whole number from 1."""
    number = natural(text)
    if not number:
        raise ArgumentTypeError("it is 1 at least")
    return number


def above_zero(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise ArgumentTypeError(f"`{text}` is no number above 0")
    return value


SECONDS = {"s": 1, "m": 60, "h": 3600}


def seconds(text: str) -> float:
    """Seconds, or with an `m` or `h` behind them minutes or hours."""
    words = text.strip()
    unit = words[-1:] if words[-1:] in SECONDS else ""
    number = words.removesuffix(unit).strip()
    if not re.fullmatch(r"(\d{1,9}(\.\d*)?|\.\d+)", number, re.ASCII):
        raise ArgumentTypeError(f"`{text}` is no time such as 10, 2.5, 90s or 3m")
    return float(number) * SECONDS.get(unit, 1)


def patience(text: str) -> float:
    """Seconds above 0."""
    value = seconds(text)
    if not value:
        raise ArgumentTypeError("without any time no other rank can be waited for: more than 0")
    return value


# ---------------------------------------------------------------------------- the table

HOW, SAVED = "training", "checkpoints"  # groups

TRAINING = (
    TrainingFlag(
        "--model",
        "a Python object with `stage(index, count)`, `loss(output, target)`, and if you like "
        "`optimizer(parameters)`, `scheduler(optimizer)`, `data`, `eval_data`, `after_step(done)`",
        metavar="MODULE:NAME",
    ),
    TrainingFlag(
        "--data",
        "a Python function that is called with the number of the step and returns `(x, target)`, "
        "the same on every rank",
        otherwise="the model's own `data`",
        metavar="MODULE:NAME",
    ),
    TrainingFlag("--steps", "train for N steps", 10, type=positive, metavar="N"),
    TrainingFlag(
        "--device",
        "where ranks compute",
        otherwise="each on a GPU of its own where there are enough, else on the CPU",
        choices=("cpu", "cuda"),
    ),
    TrainingFlag(
        "--timeout",
        "seconds (2.5, 90s; 3m are minutes, 1h an hour) to wait for other ranks",
        60.0,
        type=patience,
        metavar="SECONDS",
    ),
    TrainingFlag(
        "--accumulate",
        "batches for each step: their gradients are added, and are those of the mean",
        1,
        type=positive,
        metavar="N",
        group=HOW,
    ),
    TrainingFlag(
        "--clip",
        "clip the norm of all gradients to NORM",
        otherwise="they are not clipped",
        type=above_zero,
        metavar="NORM",
        group=HOW,
    ),
    TrainingFlag(
        "--amp",
        "compute forwards under autocast in this type, with scaled losses for float16",
        otherwise="in the types of the modules",
        choices=("bfloat16", "float16"),
        group=HOW,
    ),
    TrainingFlag(
        "--on-nonfinite",
        "what a loss or gradient does that is NaN or infinite",
        "stop",
        choices=("stop", "warn"),
        group=HOW,
    ),
    TrainingFlag(
        "--log-every",
        "steps from one line to the next",
        otherwise="a line a few times a second",
        type=positive,
        metavar="STEPS",
        group=HOW,
    ),
    TrainingFlag(
        "--eval-every",
        "steps from one evaluation to the next",
        otherwise="none",
        type=positive,
        metavar="STEPS",
        group=HOW,
    ),
    TrainingFlag(
        "--eval-data",
        "batches of `(x, target)` to evaluate on, or a function that gives them, the same on every "
        "rank",
        otherwise="the model's own `eval_data`",
        metavar="MODULE:NAME",
        group=HOW,
    ),
    TrainingFlag(
        "--seed",
        "start torch's random numbers here: before a stage is built at a place that depends on N "
        "and the stage, before the first step on N and the rank (with --local, ranks share them)",
        otherwise="as torch does",
        type=int,
        metavar="N",
        group=HOW,
    ),
    TrainingFlag(
        "--checkpoint",
        "write checkpoints below FOLDER, which all ranks can reach",
        otherwise="none",
        metavar="FOLDER",
        group=SAVED,
    ),
    TrainingFlag(
        "--checkpoint-every",
        "steps from one checkpoint to the next",
        otherwise="one at the end",
        type=positive,
        metavar="STEPS",
        group=SAVED,
    ),
    TrainingFlag(
        "--keep", "checkpoints to keep, the newest", 3, type=positive, metavar="N", group=SAVED
    ),
    TrainingFlag(
        "--resume",
        "go on from the newest checkpoint below FOLDER, if there is one, up to --steps; torchrun's "
        "restarts do so by themselves",
        type=None,
        group=SAVED,
    ),
    TrainingFlag(
        "--verify",
        "run the first step in one process too, and demand the same gradients, bit for bit",
        type=None,
    ),
    TrainingFlag(
        "--check-messages",
        "send before every message what it is (256 bytes), and compare",
        otherwise="not",
        type=None,
    ),
    TrainingFlag("--trust", "do not prove the plan again on rank 0", type=None),
    TrainingFlag("--local", "all ranks as threads of one process, without torchrun", type=None),
)
"""Every flag of a training, in the order in which a help shows them."""
