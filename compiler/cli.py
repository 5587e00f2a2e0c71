"""`stretto` on the command line: the commands with their flags, and what becomes of what they
raise. Each command is a file of `commands/`, loaded when it is asked for.

Data goes to stdout, talk to stderr. Exit codes: 0 done, 1 the user's file or plan is wrong, 2 usage
or input that cannot be read, 70 a bug of ours, 128 and more: ended by a signal, 130 interrupted.
"""

import os
import re
import sys
from argparse import (
    Action,
    ArgumentParser,
    ArgumentTypeError,
    Namespace,
    RawDescriptionHelpFormatter,
)
from collections.abc import Sequence
from fractions import Fraction
from importlib import import_module
from typing import TextIO

DONE, WRONG, USAGE, BUG, INTERRUPTED, PIPE = 0, 1, 2, 70, 130, 141
REPORTS = ("full", "concise", "json", "github")
PICTURES = ("text", "svg", "html", "trace", "json", "dot", "torch-csv")
ENGINES = ("library", "list", "alternating", "offsets", "periodic", "anneal", "cpsat")
ASSIGNED = re.compile(r"[A-Za-z_]\w*=")
NARROWEST = 40  # columns in which a text can still be read
ONE_EACH = "one --set for each value"
EPILOG = """\
FILE is a schedule (*.pipe), a plan, the name of a schedule that ships (see `stretto list`), or `-`.
Exit codes: 0 done, 1 the file is wrong, 2 usage or unreadable input, 70 a bug in stretto.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    sys.stdout, sys.stderr = sys.stdout or nowhere(), sys.stderr or nowhere()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    chosen = understood(arguments)
    try:
        code = run(chosen)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE
    except KeyboardInterrupt:
        print("stretto: interrupted", file=sys.stderr)
        return INTERRUPTED


def nowhere() -> TextIO:
    """Instead of a stream that is closed, as `>&-` leaves it."""
    return open(os.devnull, "w")


def understood(arguments: Sequence[str] | None) -> Namespace:
    """The command line. A `NAME=VALUE` that stands where a file or nothing should, stands behind a
    `--set` that has its value already."""
    top = parser()
    chosen, left = top.parse_known_args(arguments)
    named = getattr(chosen, "files", [getattr(chosen, "file", "")])
    for word in (*left, *named):
        if ASSIGNED.match(word) and not os.path.exists(word):
            top.error(f"{ONE_EACH}: --set {word}")
    if left:
        top.error(f"unrecognized arguments: {' '.join(left)}")
    return chosen


def run(chosen: Namespace) -> int:
    """The command, with its known failures turned into words and codes."""
    from stretto.compiler.commands.files import Unusable, say

    try:
        command = import_module(f"stretto.compiler.commands.{chosen.command}")
        code: int = command.run(chosen)
        return code
    except Unusable as error:
        say(f"stretto: {error}")
        return USAGE
    except (BrokenPipeError, KeyboardInterrupt):
        raise
    except Exception as error:
        return failed(error, chosen)


def failed(error: Exception, chosen: Namespace) -> int:
    """What was raised: diagnostics of the user's file, or a bug."""
    from stretto.compiler.commands.files import say
    from stretto.compiler.diagnostics.diagnostic import Rejected

    if isinstance(error, Rejected):
        from stretto.compiler.commands.report import report

        report(error.diagnostics, getattr(error, "sources", ()))
        return WRONG
    if chosen.verbose:
        import traceback

        traceback.print_exception(error)
    say(
        f"stretto: this is a bug in stretto: {type(error).__name__}: {error}",
        "Please report it with the command and the file; `-v` before the command shows where.",
    )
    return BUG


# ------------------------------------------------------------------------- the command line


def parser() -> ArgumentParser:
    top = ArgumentParser(
        prog="stretto",
        description="Compile, prove, draw and run pipeline-parallel training schedules.",
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action=Version, nargs=0, help="show it")
    top.add_argument("-v", "--verbose", action="store_true", help="tracebacks of our own bugs")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, what: str, *parents: ArgumentParser) -> ArgumentParser:
        return commands.add_parser(
            name, help=what, description=f"{what[0].upper()}{what[1:]}.", parents=list(parents)
        )

    inputs, search, messages = input_flags(), search_flags(), message_flags()

    check = command("check", "prove schedules and plans", inputs, search, messages)
    check.add_argument("files", nargs="+", metavar="FILE", help="schedules and plans")
    check.add_argument(
        "--format", choices=REPORTS, default="full", help="of what is found; default: full"
    )
    check.add_argument("--assumptions", action="store_true", help="also say what a proof rests on")

    compile_ = command("compile", "write a schedule's plan", inputs, search, messages)
    compile_.add_argument("file", metavar="FILE", help="a schedule")
    compile_.add_argument("-o", "--output", metavar="PLAN", help="the file; gzip if it ends in .gz")
    compile_.add_argument("--json", action="store_true", help="the summary as one JSON object")
    compile_.add_argument("--forward-only", action="store_true", help="the forwards alone")
    compile_.add_argument("--certificate", metavar="FILE", help="for `stretto certify`")

    show = command("show", "draw a schedule or plan", inputs, search, messages)
    show.add_argument("file", metavar="FILE", help="a schedule or plan")
    show.add_argument("--format", choices=PICTURES, help="default: by the name of -o, else text")
    show.add_argument("-o", "--output", metavar="PICTURE", help="default: stdout")
    show.add_argument("--eval", action="store_true", help="the forwards alone")
    show.add_argument(
        "--width",
        type=wide,
        metavar="COLUMNS",
        help=f"of the text, {NARROWEST} at least; default: the terminal's",
    )

    add_run(command("run", "train with a schedule on this machine", inputs, search, messages))

    list_ = command("list", "compare the schedules that ship", inputs)
    list_.add_argument("--json", action="store_true", help="the table as JSON")

    new = command("new", "write a schedule file to start from")
    new.add_argument("name", metavar="NAME", help="of the schedule; the file is NAME.pipe")
    new.add_argument("--from", dest="origin", metavar="SCHEDULE", help="start from one that ships")

    certify = command("certify", "confirm a certificate, by a checker of its own")
    certify.add_argument("file", metavar="FILE", help="as `stretto compile --certificate` wrote it")

    explain = command(
        "explain", "say what an error code means, or where a plan's time goes", inputs, search
    )
    explain.add_argument("what", metavar="WHAT", help="a code, as in `error[CODE]`; or FILE")
    explain.add_argument("--json", action="store_true", help="of a plan: as one JSON object")
    return top


class Version(Action):
    """`--version`: looked up only when it is asked for."""

    def __call__(self, parser: ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"stretto {version('stretto')}")
        parser.exit()


def input_flags() -> ArgumentParser:
    """Flags that work wherever a schedule file is read."""
    parent = ArgumentParser(add_help=False)
    flags = parent.add_argument_group("reading a schedule")
    flags.add_argument(
        "--set",
        action="append",
        default=[],
        type=setting,
        dest="settings",
        metavar="NAME=VALUE",
        help="ranks, microbatches or a `param`: --set ranks=16 --set memory=9/8",
    )
    flags.add_argument("--costs", metavar="FILE", help="a file with `cost` statements")
    flags.add_argument(
        "--max-ops", type=natural, metavar="N", help="refuse more operations; default 4000000"
    )
    return parent


def search_flags() -> ArgumentParser:
    """Flags that matter where the compiler is to find the order."""
    parent = ArgumentParser(add_help=False)
    flags = parent.add_argument_group("finding an order that was not written")
    flags.add_argument(
        "--time-limit", type=natural, metavar="SECONDS", help="for the search; default 30"
    )
    flags.add_argument(
        "--effort", type=natural, metavar="N", help="count work instead: the same order everywhere"
    )
    flags.add_argument(
        "--gap",
        type=fraction,
        metavar="PART",
        help="stop so near the bound; 0.02: 2 %%; default: 0, or 0.002 beyond 100 000 operations",
    )
    flags.add_argument("--engine", choices=ENGINES, help="use this one alone")
    flags.add_argument(
        "--seed", type=natural, default=0, metavar="N", help="of the random numbers; default 0"
    )
    flags.add_argument("--no-cache", action="store_true", help="do not use orders found before")
    return parent


def message_flags() -> ArgumentParser:
    """Flags on how data moves between the ranks."""
    parent = ArgumentParser(add_help=False)
    flags = parent.add_argument_group("moving data")
    flags.add_argument(
        "--receive-slots",
        type=positive,
        metavar="N",
        help="advice: at most N receives posted and kept per rank; can be slower",
    )
    return parent


def add_run(run: ArgumentParser) -> None:
    run.add_argument("file", metavar="FILE", help="a schedule or plan")
    run.add_argument("--model", required=True, metavar="MODULE:NAME", help="makes the stages")
    run.add_argument("--data", metavar="MODULE:NAME", help="yields (x, target) for every step")
    run.add_argument("--steps", type=natural, metavar="N", help="training steps")
    run.add_argument("--timeout", type=natural, metavar="SECONDS", help="patience with other ranks")
    run.add_argument("--verify", action="store_true", help="compare with one process, bit by bit")
    run.add_argument("--trust", action="store_true", help="do not prove the plan once more")
    run.add_argument("--local", action="store_true", help="all ranks as threads of one process")


def setting(text: str) -> tuple[str, Fraction]:
    """`NAME=VALUE`, the value a number, a decimal or a fraction."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip().isidentifier():
        raise ArgumentTypeError(f"`{text}` is not NAME=VALUE")
    if "=" in value:
        pairs = re.split(r"[,;\s]+(?=\w+=)", text)
        raise ArgumentTypeError(f"{ONE_EACH}: {' '.join(f'--set {pair}' for pair in pairs)}")
    return name.strip(), fraction(value)


def fraction(text: str) -> Fraction:
    """A number as exact as it was written; `20 GiB` too."""
    words = text.strip()
    factor = 1
    for power, unit in enumerate(("KiB", "MiB", "GiB", "TiB"), start=1):
        if words.endswith(unit):
            words, factor = words.removesuffix(unit), 1024**power
    try:
        if len(words) > 100 or "e" in words.lower():
            raise ValueError
        return Fraction(words.replace(" ", "")) * factor
    except (ValueError, ZeroDivisionError):
        raise ArgumentTypeError(f"`{text}` is not a number such as 8, 1.5, 9/8 or 20GiB") from None


def natural(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise ArgumentTypeError(f"`{text}` is not a whole number")
    return int(text)


def positive(text: str) -> int:
    number = natural(text)
    if not number:
        raise ArgumentTypeError("it is 1 at least")
    return number


def wide(text: str) -> int:
    number = natural(text)
    if number < NARROWEST:
        raise ArgumentTypeError(f"a picture needs {NARROWEST} columns at least")
    return number


if __name__ == "__main__":
    sys.exit(main())
