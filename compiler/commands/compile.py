"""`stretto compile FILE -o PLAN`: write the plan, print the summary."""

import json
from argparse import ArgumentParser, Namespace

import msgspec

from stretto.compiler.commands import files
from stretto.compiler.commands.flags import add_inputs, add_messages, add_search
from stretto.compiler.commands.load import load
from stretto.compiler.diagnostics.printable import printable
from stretto.compiler.plan.plan import Plan, write_plan
from stretto.compiler.show.summary import of_plan, step_of, table


def add(parser: ArgumentParser) -> None:
    """The flags of `compile`."""
    add_inputs(parser)
    add_search(parser)
    add_messages(parser)
    parser.add_argument("file", metavar="FILE", help="a schedule; `-` for standard input")
    parser.add_argument(
        "-o",
        "--output",
        metavar="PLAN",
        help="write the plan to this file, compressed if it ends in .gz (default: write none)",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as a JSON object")
    parser.add_argument(
        "--forward-only",
        action="store_true",
        help="leave the training step out of the plan, which then only evaluates",
    )
    parser.add_argument(
        "--certificate",
        metavar="FILE",
        help="also write a certificate of the order and its bound, for `stretto certify`",
    )


def run(chosen: Namespace) -> int:
    """Compile the schedule and print its summary."""
    if files.is_plan(chosen.file):
        raise files.Unusable(f"`{chosen.file}` is a plan already; `check` and `show` read it")
    plan = load(chosen.file, chosen, forward_only=chosen.forward_only)
    if chosen.output:
        with files.guarded(chosen.output):
            write_plan(plan, chosen.output)
    if chosen.certificate:
        _certify(plan, chosen.certificate)
    summary = of_plan(plan)
    print(msgspec.json.encode(summary).decode() if chosen.json else printable(table(summary)))
    for written in filter(None, (chosen.output, chosen.certificate)):
        files.say(f"wrote {written}")
    return 0


def _certify(plan: Plan, output: str) -> None:
    """Write the certificate of the plan's step. Raises `Unusable` where there can be none."""
    from stretto.compiler.certificate.checker.instance import Refuted
    from stretto.compiler.certificate.write import certificate, unproven

    name = step_of(plan)
    try:
        text = certificate(plan.programs[name], plan.claims[name], plan.bound, plan.hash)
    except Refuted as error:
        raise files.Unusable(f"no certificate is written to `{output}`: {error}") from None
    files.write(output, text)
    if weaker := unproven(json.loads(text)):
        files.say(f"{output}: {weaker}")
