"""The parsers of the command line: argparse, with an error in one line first, the usage in one line
below it, and the word that was probably meant."""

import re
import sys
from argparse import SUPPRESS, Action, ArgumentError, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, NoReturn

from stretto.compiler.commands import COMMANDS
from stretto.compiler.diagnostics.suggest import nearest

USAGE = 2  # the exit code
EPILOG = """\
examples:
  stretto new mine                  # a schedule file to start from
  stretto show dualpipe             # the chart of a schedule that ships
  stretto compile mine.pipe -o mine.plan --set ranks=8
  stretto run mine.plan --model examples/gpt.py:MODEL --data examples/gpt.py:DATA

FILE is a schedule (*.pipe), a plan, the name of a schedule that ships (see `stretto list`), or `-`.
Exit codes: 0 done, 1 the file is wrong, 2 usage or unreadable input, 70 a bug in stretto.
"""


def parser() -> ArgumentParser:
    """The parser of the whole command line; those of the commands are filled when they are used."""
    top = VisibleParser(
        prog="stretto",
        description="Compile, prove, draw and run pipeline-parallel training schedules.",
        epilog=EPILOG,
    )
    top.add_argument("--version", action=Version, nargs=0, help="print the version and exit")
    top.add_argument(
        "-v", "--verbose", action="store_true", help="print a traceback if stretto has a bug"
    )
    commands = top.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=CommandParser
    )
    for name, what in COMMANDS.items():
        description = f"{what[0].upper()}{what[1:]}."
        commands.add_parser(name, help=what, description=description, command=name)
    return top


def commands_of(top: ArgumentParser) -> "dict[str, CommandParser]":
    """The parser of every command, by its name."""
    (found,) = (action.choices for action in top._actions if action.dest == "command")
    return dict(found)  # type: ignore[arg-type]


class Version(Action):
    """`--version`: looked up only when it is asked for."""

    def __call__(self, parser: ArgumentParser, *_: object) -> None:
        """Print the version and exit."""
        from importlib.metadata import version

        print(f"stretto {version('stretto')}", flush=True)
        parser.exit()


class VisibleParser(ArgumentParser):
    """A parser that shows what it was given, and nothing that is not seen."""

    def __init__(self, **options: Any):
        super().__init__(formatter_class=RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line, then how it is used, a line each, and exit."""
        from stretto.compiler.diagnostics.printable import one_line

        message = re.sub(r"^the following arguments are required: ", "missing: ", message)
        message = re.sub(r"^argument (\S+): ", r"\1: ", message)
        usage = f"usage: {one_usage(self)}; `{self.prog} --help` says more"
        self.exit(USAGE, f"stretto: {one_line(message)}\n{usage}\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        """As argparse does; but a help that cannot be written is told. Raises `OSError`."""
        if file is None or file is sys.stderr:
            super()._print_message(message, file)
        else:
            file.write(message)
            file.flush()

    def _check_value(self, action: Action, value: Any) -> None:
        """As argparse does, in words that name what was probably meant."""
        if action.choices is None or value in action.choices:
            return
        known = [str(choice) for choice in action.choices]
        one_of = f"one of {', '.join(known)}"
        raise ArgumentError(action, f"`{value}` is not {one_of}{meant(str(value), known)}")

    def flags(self) -> list[str]:
        """The long flags that it knows."""
        return [name for name in self._option_string_actions if name.startswith("--")]


class CommandParser(VisibleParser):
    """The parser of one command, whose module is loaded when the command is used. The module's
    `EXAMPLES`, command lines with a comment each, stand at the end of its help."""

    def __init__(self, *, command: str, **options: Any):
        super().__init__(**options)
        self.command, self.filled = command, False

    def fill(self) -> None:
        """Let the command's module declare its flags."""
        if not self.filled:
            self.filled = True
            module = import_module(f"stretto.compiler.commands.{self.command}")
            module.add(self)
            self.set_defaults(run=module.run)
            self.usage = one_usage(self)
            self.epilog = f"examples:\n{module.EXAMPLES}"

    def parse_known_args(self, *arguments: Any, **options: Any) -> Any:
        """As argparse does, with the flags of the command."""
        self.fill()
        return super().parse_known_args(*arguments, **options)


def one_usage(parser: ArgumentParser) -> str:
    """How a command is used, in one line: the flags that it must have, its other ones as a word."""
    words = [parser.prog]
    optional, needed, files = False, [], []
    for action in parser._actions:
        if action.help is SUPPRESS:
            continue
        if not action.option_strings:
            name = str(action.metavar or action.dest)
            files.append(f"{name}…" if action.nargs == "+" else name)
        elif action.required:
            value = action.metavar or "|".join(map(str, action.choices or ()))
            needed.append(f"{action.option_strings[-1]} {value}")
        else:
            optional = True
    return " ".join([*words, *needed, *(["[FLAGS]"] if optional else []), *files])


def unknown(parser: ArgumentParser, left: Sequence[str], typed: Sequence[str]) -> str:
    """What is wrong with the words that are `left` of those that were `typed`."""
    flags = parser.flags() if isinstance(parser, VisibleParser) else []
    formats = [c for a in parser._actions if a.dest == "format" for c in a.choices or ()]
    from stretto.compiler.commands import mistaken

    return mistaken.unknown(flags, left, typed, formats)


def meant(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?`, where a known word is near."""
    near = nearest(word, known)
    return f"; did you mean `{near}`?" if near else ""
