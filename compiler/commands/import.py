"""`stretto import FILE --from SYSTEM -o x.pipe`: another system's table as a schedule file."""

from argparse import ArgumentParser, Namespace

from stretto.compiler.arguments import natural
from stretto.compiler.commands import files, outputs, screen
from stretto.compiler.commands.flags import add_costs, add_tables

EXAMPLES = """\
  stretto import table.csv --from torch-csv -o mine.pipe
  stretto import table.csv --from torch-csv --reorder --costs measured.pipe -o mine.pipe"""


def add(parser: ArgumentParser) -> None:
    """The flags of `import`."""
    add_tables(parser, required=True)
    parser.add_argument("file", metavar="FILE", help="the table; `-` for standard input")
    parser.add_argument(
        "--max-ops",
        type=natural,
        metavar="N",
        help="refuse a table with more than N operations (default 1000000)",
    )
    parser.add_argument(
        "--reorder",
        action="store_true",
        help="leave the order out and limit every rank to the activations that it holds there: "
        "the compiler looks for a better one",
    )
    add_costs(parser.add_argument_group("with --reorder: what limits are in"))
    parser.set_defaults(settings=[])
    outputs.add_output(
        parser,
        "-o",
        "--output",
        metavar="SCHEDULE",
        help="write the schedule to this file (default `-`, stdout)",
    )


def run(chosen: Namespace) -> int:
    """Write the schedule file. Raises `Refused` where the table is wrong."""
    from stretto.compiler.commands.tables import schedule_text

    if (chosen.costs or chosen.cost) and not chosen.reorder:
        flag = "--costs" if chosen.costs else "--cost"
        raise files.Unusable(
            f"{flag} is for `--reorder`, whose limits are then those of measured activations; the "
            "order of a table is the same for all costs"
        )
    source, known = schedule_text(chosen.file, chosen, chosen.reorder)
    if chosen.output is None or outputs.is_stdout(chosen.output):
        screen.write_data(source.text)
    else:
        outputs.write(chosen.output, source.text)
        files.say(f"wrote {chosen.output}")
    if known:
        files.say(f"the order is that of the library's {known}")
    return 0
