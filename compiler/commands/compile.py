"""`stretto compile FILE -o PLAN`: write the plan, print the summary."""

import json
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import replace

import msgspec

from stretto.compiler.commands import files, outputs, screen
from stretto.compiler.commands.doubts import as_data
from stretto.compiler.commands.flags import add_inputs, add_messages, add_search
from stretto.compiler.commands.load import load, searching
from stretto.compiler.diagnostics.printable import printable
from stretto.compiler.plan.plan import Plan, plan_bytes
from stretto.compiler.show.summary import of_plan, step_of, table

EXAMPLES = """\
  stretto compile dualpipe -o dualpipe.plan --set ranks=8 --set microbatches=20
  stretto compile v_half -o v_half.plan --time-limit 10
  stretto compile v_half --effort 0 --json
  stretto compile v_half.plan --certificate v_half.json"""


def add(parser: ArgumentParser) -> None:
    """The flags of `compile`."""
    add_inputs(parser)
    add_search(parser)
    add_messages(parser)
    parser.add_argument(
        "file",
        metavar="FILE",
        help="a schedule, `-` for standard input; or with --certificate alone, a plan",
    )
    outputs.add_output(
        parser,
        "-o",
        "--output",
        metavar="PLAN",
        help="write the plan to this file, compressed if it ends in .gz, or to stdout if it is `-` "
        "(default: write none)",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as a JSON object")
    parser.add_argument(
        "--forward-only",
        action="store_true",
        help="leave the training step out of the plan, which then only evaluates",
    )
    parser.add_argument(
        "--whole",
        action="store_true",
        help="run stages that are cut into parts whole, in the same order, each operation where "
        "its last part stood: for models whose stages have no parts",
    )
    outputs.add_output(
        parser,
        "--certificate",
        metavar="FILE",
        help="also write a certificate of the plan, its order and bound, for `stretto certify`; of "
        "--time-limit up to half is left for what comes after the search",
    )


def run(chosen: Namespace) -> int:
    """Compile the schedule and print its summary."""
    alone = chosen.certificate is not None and not (
        chosen.output is not None or chosen.forward_only
    )
    if files.is_plan(chosen.file) and not alone:
        raise files.Unusable(
            f"`{chosen.file}` is a plan already; `check` and `show` read it, and `compile PLAN "
            "--certificate FILE` writes its certificate"
        )
    to_stdout = any(outputs.is_stdout(n) for n in (chosen.output, chosen.certificate) if n)
    if chosen.json and to_stdout:
        raise files.Unusable("the summary of --json and a file cannot both go to standard output")
    budget = searching(chosen)
    if chosen.certificate is not None:
        from stretto.compiler.certificate.write import seconds_for

        budget = replace(budget, after=seconds_for)
    plan = load(chosen.file, chosen, budget, forward_only=chosen.forward_only)
    written = {}
    if chosen.output is not None:
        written[chosen.output] = plan_bytes(plan, packed=chosen.output.endswith(".gz"))
    weaker = None
    if chosen.certificate is not None:
        text, weaker = _certified(plan, chosen.certificate)
        written[chosen.certificate] = iter([text.encode()])
    outputs.write_all(written)
    if weaker:
        files.say(f"{chosen.certificate}: {weaker}")
    summary = of_plan(plan)
    if chosen.json:
        told = {**msgspec.to_builtins(summary), "warnings": as_data(chosen)}
        screen.write_data(msgspec.json.encode(told).decode() + "\n")
    else:
        stream = sys.stderr if to_stdout else sys.stdout
        print(printable(table(summary, screen.width(stream))), file=stream)
    for name in written:
        if not outputs.is_stdout(name):
            files.say(f"wrote {name}")
    return 0


def _certified(plan: Plan, output: str) -> tuple[str, str | None]:
    """The certificate of the plan's step, and what it does not show. Raises `Unusable` where there
    can be none."""
    from stretto.compiler.certificate.checker.instance import Refuted
    from stretto.compiler.certificate.write import certificate, unproven

    name = step_of(plan)
    try:
        text = certificate(plan.programs[name], plan.claims[name], plan.bound, plan.hash)
    except Refuted as error:
        raise files.Unusable(f"no certificate is written to `{output}`: {error}") from None
    return text, unproven(json.loads(text))
