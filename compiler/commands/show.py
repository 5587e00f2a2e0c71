"""`stretto show PLAN|FILE`: a picture or listing, to stdout or a file."""

import sys
from argparse import Namespace
from pathlib import Path
from shutil import get_terminal_size

from stretto.compiler.commands import files
from stretto.compiler.commands.load import Refused, load
from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.program.program import ProgramName
from stretto.compiler.show import FORMATS, Look, draw, format_of
from stretto.compiler.show.summary import step_of

UNKNOWN_WIDTH = 120  # columns, where the output is no terminal


def run(chosen: Namespace) -> int:
    format = chosen.format or named(chosen.output or "")
    plan = load(chosen.file, chosen)
    name: ProgramName = "eval" if chosen.eval else step_of(plan)
    try:
        picture = draw(plan, format, name, look(chosen))
    except Rejected as error:
        raise Refused(error.diagnostics, plan.sources) from None
    if chosen.output:
        files.write(chosen.output, picture)
        files.say(f"wrote {chosen.output}")
    else:
        sys.stdout.write(picture)
    return 0


def named(output: str) -> str:
    """The format that the name of the file asks for."""
    try:
        return format_of(Path(output).name)
    except LookupError:
        known = ", ".join(f"{suffix} ({format})" for format, (_, suffix) in FORMATS.items())
        raise files.Unusable(
            f"`{output}` names no format: say one with --format, or end it in {known}"
        ) from None


def look(chosen: Namespace) -> Look:
    """How a text is looked at: as wide as the terminal, in colour if it has any."""
    colour = files.colourful(sys.stdout) and not chosen.output
    return Look(chosen.width or get_terminal_size((UNKNOWN_WIDTH, 24)).columns, colour)
