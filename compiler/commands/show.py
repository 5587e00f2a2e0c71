"""`stretto show PLAN|FILE`: a picture or listing, to stdout or a file."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from stretto.compiler.commands import files, outputs, screen
from stretto.compiler.commands.flags import (
    FILE,
    NARROWEST,
    add_inputs,
    add_messages,
    add_search,
    wide,
)
from stretto.compiler.commands.load import Refused, load
from stretto.compiler.diagnostics.diagnostic import Diagnostic, Rejected
from stretto.compiler.program.program import ProgramName
from stretto.compiler.show import FORMATS, Look, draw, format_of
from stretto.compiler.show.summary import step_of

UNKNOWN_WIDTH = 120  # columns, where the output is no terminal

EXAMPLES = """\
  stretto show dualpipe
  stretto show dualpipe --format svg -o dualpipe.svg
  stretto show mine.plan --format trace -o mine.json    # for ui.perfetto.dev"""


def add(parser: ArgumentParser) -> None:
    """The flags of `show`."""
    add_inputs(parser)
    add_search(parser)
    add_messages(parser)
    parser.add_argument("file", metavar="FILE", help=FILE)
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="format of the picture (default: what the name of -o ends in, else text)",
    )
    outputs.add_output(
        parser,
        "-o",
        "--output",
        metavar="PICTURE",
        help="write the picture to this file (default `-`, stdout)",
    )
    parser.add_argument(
        "--eval", action="store_true", help="draw the forwards of an evaluation, not the step"
    )
    parser.add_argument(
        "--dialect",
        choices=("compute_only", "compute_comms"),
        help="dialect of torch-csv: computations alone, for which torch works out the messages "
        "(default), or with all messages",
    )
    parser.add_argument(
        "--width",
        type=wide,
        metavar="COLUMNS",
        help=f"width of a text picture, at least {NARROWEST} (default: that of the terminal)",
    )


def run(chosen: Namespace) -> int:
    """Draw the schedule or plan, to stdout or a file. Raises `Refused` where the format cannot
    hold it."""
    if chosen.output is not None and outputs.is_stdout(chosen.output):
        chosen.output = None
    format = chosen.format or named(chosen.output or "")
    if chosen.dialect and format != "torch-csv":
        raise files.Unusable(f"--dialect is for `--format torch-csv`, and this is `{format}`")
    if not chosen.output:
        screen.must_be_open()
    plan = load(chosen.file, chosen)
    if chosen.eval and plan.no_evaluation:
        why = f"there is no evaluation to draw: {plan.no_evaluation}"
        raise Refused([Diagnostic("rule-between-ranks", why)], plan.sources)
    name: ProgramName = "eval" if chosen.eval else step_of(plan)
    try:
        picture = draw(plan, format, name, look(chosen), chosen.dialect)
    except Rejected as error:
        raise Refused(error.diagnostics, plan.sources) from None
    if chosen.output:
        outputs.write(chosen.output, picture)
        files.say(f"wrote {chosen.output}")
    elif format == "text":
        sys.stdout.write(picture)
    else:
        screen.write_data(picture)
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
    return Look(chosen.width or screen.width(sys.stdout) or UNKNOWN_WIDTH, colour)
