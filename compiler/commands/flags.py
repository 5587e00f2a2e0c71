"""Flags that several commands share, by what they are about, and the types of arguments.

A command's `add(parser)` calls the functions for the groups that it offers. What the flags mean is
said in their help texts, of which `docs/cli.md` is made.
"""

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from fractions import Fraction
from typing import TYPE_CHECKING

from stretto.compiler.arguments import natural, positive, seconds
from stretto.compiler.order.engines.table import BY_NAME, NAMES
from stretto.compiler.units import UNITS, SizedValue

if TYPE_CHECKING:
    from argparse import _ArgumentGroup

NARROWEST = 40  # columns in which a text picture can still be read
MOST_POWER = 300  # the largest exponent of ten that a number may have
ONE_EACH = "one --set for each value"
SYSTEMS = ("torch-csv", "zero-bubble", "megatron", "dualpipe", "primus", "jaxpp")
FILE = "a schedule or plan; `-` for standard input"


def add_inputs(parser: ArgumentParser) -> None:
    """The flags of every command that reads a schedule file."""
    flags = parser.add_argument_group("reading a schedule")
    flags.add_argument(
        "--set",
        action="append",
        default=[],
        type=setting,
        dest="settings",
        metavar="NAME=VALUE",
        help="override `ranks`, `microbatches` or a `param` of the file, any number of times: "
        "--set ranks=16 --set memory=9/8",
    )
    add_costs(flags)
    flags.add_argument(
        "--max-ops",
        type=natural,
        metavar="N",
        help="refuse a schedule with more than N operations (default 4000000)",
    )


def add_costs(flags: "_ArgumentGroup") -> None:
    """The flags of every command that takes costs which are stated beside a schedule."""
    flags.add_argument(
        "--costs",
        metavar="FILE",
        help="take `cost`, `activation` and `transfer` statements from this file too",
    )
    flags.add_argument(
        "--cost",
        action="append",
        default=[],
        type=stated_cost,
        dest="cost",
        metavar="OP=VALUE",
        help="a statement of such a file, any number of times, after those of --costs: "
        "--cost F=10 --cost 'B[0]=20.5' --cost transfer=1/10 --cost activation=1.5GiB",
    )


def add_tables(parser: ArgumentParser, *, required: bool = False) -> None:
    """The flags of every command that reads the tables of other systems."""
    flags = parser.add_argument_group("reading another system's table")
    flags.add_argument(
        "--from",
        dest="system",
        choices=SYSTEMS,
        required=required,
        help="FILE is a table of this system: a row for each rank, what it does in sequence",
    )
    flags.add_argument(
        "--ranks", type=positive, metavar="N", help="ranks there must be (default: a row is one)"
    )
    flags.add_argument(
        "--microbatches",
        type=positive,
        metavar="N",
        help="micro-batches of the step (default: what most of the table shows)",
    )
    flags.add_argument(
        "--placement",
        choices=("loop", "v"),
        help="where stages must be: `loop`, stage s on rank s %% ranks, or `v`, back and forth "
        "(default: where the table has them; systems whose tables name chunks need it)",
    )


def add_search(parser: ArgumentParser, seed: str = "random seed of the search (default 0)") -> None:
    """The flags of every command that may have to find an order; `seed` is the help of `--seed`,
    for a command that uses the number for more than that."""
    flags = parser.add_argument_group("finding an order that was not written")
    flags.add_argument(
        "--time-limit",
        type=seconds,
        metavar="SECONDS",
        help="seconds (2.5, 90s; 3m are minutes, 1h an hour) of wall time from the start of the "
        "command, proof and writing included, in which the search does what it can (default 30; "
        "`explain`: 6, half of them for what would help)",
    )
    flags.add_argument(
        "--effort",
        type=natural,
        metavar="N",
        help="budget in units of work in place of seconds, a unit being a million operations put "
        "on their ranks once (some tenths of a second of one core for compiled loops): the same "
        "order on every machine, however busy; 0 takes the best of the first orders found",
    )
    flags.add_argument(
        "--gap",
        type=part,
        metavar="PART",
        help="stop within this fraction of the lower bound (0.02 or 2%%; default 0, beyond "
        "100 000 operations 0.002)",
    )
    flags.add_argument(
        "--engine", type=_engine, choices=NAMES, help="run only this engine (default: all)"
    )
    flags.add_argument("--seed", type=natural, default=0, metavar="N", help=seed)
    flags.add_argument(
        "--no-cache",
        action="store_true",
        help="neither use orders that were found before, nor keep this one",
    )


def add_messages(parser: ArgumentParser) -> None:
    """The flags of every command that decides how data moves between ranks."""
    flags = parser.add_argument_group("moving data")
    flags.add_argument(
        "--receive-slots",
        type=positive,
        metavar="N",
        help="soft limit on receive buffers per rank (default: none); exceeded only where the "
        "order needs more; can make the plan slower",
    )


def without_effect(chosen: Namespace) -> list[str]:
    """The given flags that can change nothing where the file is a plan, whose sizes, costs and
    order are fixed."""
    searches = getattr(chosen, "searches_in_plans", False)
    given = {
        "--set": chosen.settings,
        "--costs": chosen.costs,
        "--cost": chosen.cost,
        "--max-ops": chosen.max_ops is not None,
        "--time-limit": chosen.time_limit is not None and not searches,
        "--effort": chosen.effort is not None and not searches,
        "--gap": chosen.gap is not None,
        "--engine": chosen.engine,
        "--seed": chosen.seed and not searches,
        "--no-cache": chosen.no_cache,
        "--receive-slots": getattr(chosen, "receive_slots", None) is not None,
    }
    return [flag for flag, used in given.items() if used]


# ------------------------------------------------------------------------- types of arguments


def setting(text: str) -> tuple[str, Fraction]:
    """`NAME=VALUE`, the value a number, a decimal or a fraction. Raises `ArgumentTypeError`."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip().isidentifier():
        raise ArgumentTypeError(f"`{text}` is not NAME=VALUE, such as `ranks=8` without a blank")
    if "=" in value:
        pairs = re.split(r"[,;\s]+(?=\w+=)", text)
        raise ArgumentTypeError(f"{ONE_EACH}: {' '.join(f'--set {pair}' for pair in pairs)}")
    return name.strip(), fraction(value)


def stated_cost(text: str) -> str:
    """`OP=VALUE` as a statement of the language. Raises `ArgumentTypeError` where it is none, and
    for the name of a file."""
    from stretto.compiler.language.inline_costs import as_statement  # its room reads texts

    what, equals, value = text.partition("=")
    if not (equals and what.strip() and value.strip()) and not text.startswith("transfer "):
        hint = f"; a file of costs is `--costs {text}`" if "." in text or "/" in text else ""
        raise ArgumentTypeError(f"`{text}` is not OP=VALUE, such as `F=10`{hint}")
    return as_statement(text)


def fraction(text: str) -> Fraction:
    """A number as exact as it was written; `20 GiB` too, in bytes. Raises `ArgumentTypeError`."""
    words = text.strip()
    unit = next((one for one in UNITS if words.endswith(one)), "")
    words = words.removesuffix(unit)
    try:
        _, _, exponent = words.lower().partition("e")
        if len(words) > 100 or abs(int(exponent or 0)) > MOST_POWER:
            raise ValueError
        number = Fraction(words.replace(" ", ""))
        return SizedValue.of(number * UNITS[unit], unit) if unit else number
    except (ValueError, ZeroDivisionError):
        raise ArgumentTypeError(
            f"`{text}` is not a number such as 8, 1.5, 9/8, 1e-3 or 20GiB"
        ) from None


def part(text: str) -> Fraction:
    """A fraction, or a percentage with a `%` behind it. Raises `ArgumentTypeError`."""
    words = text.strip()
    try:
        return fraction(words.removesuffix("%").strip()) / (100 if words.endswith("%") else 1)
    except ArgumentTypeError:
        raise ArgumentTypeError(
            f"`{text}` is no fraction of the bound such as 0.02, 1/50 or 2%"
        ) from None


def wide(text: str) -> int:
    """Columns that a picture can be drawn in. Raises `ArgumentTypeError`."""
    number = natural(text)
    if number < NARROWEST:
        raise ArgumentTypeError(f"a picture needs {NARROWEST} columns at least")
    return number


def _engine(text: str) -> str:
    """The name of the engine that this, its name or another word for it, stands for; what stands
    for none as it is, for argparse to refuse."""
    return BY_NAME[text].name if text in BY_NAME else text
