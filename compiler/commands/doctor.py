"""`stretto doctor`: what is wrong with this environment, before a run shows it. A line for each
finding, and below it what to do; exit code 1 where a run cannot work."""

import json
import os
import sys
from argparse import ArgumentParser, Namespace

from stretto.compiler.commands import screen
from stretto.compiler.commands.examination import examine
from stretto.compiler.commands.files import must_be_somewhere
from stretto.compiler.diagnostics.layout import beside
from stretto.compiler.diagnostics.printable import printable
from stretto.compiler.diagnostics.wording import count

SIGNS = {"ok": " ", "warning": "!", "problem": "x"}

EXAMPLES = """\
  stretto doctor"""


def add(parser: ArgumentParser) -> None:
    """The flags of `doctor`."""
    parser.add_argument(
        "--json", action="store_true", help="print the findings as JSON: a list of objects"
    )


def run(chosen: Namespace) -> int:
    """Print the findings. Returns 1 where one of them is a problem, else 0. Raises `Unusable`."""
    must_be_somewhere()
    findings = examine(os.environ)
    problems = sum(finding.state == "problem" for finding in findings)
    if chosen.json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2))
        return 1 if problems else 0
    margin = max(len(finding.check) for finding in findings) + 2
    room = screen.width(sys.stdout)
    for finding in findings:
        head = f"{SIGNS[finding.state]} {finding.check:{margin}}"
        print(*beside(head, printable(finding.found), room), sep="\n")
        if finding.advice:
            head = f"  {'':{margin}}-> "
            print(*beside(head, printable(finding.advice), room), sep="\n")
    warnings = sum(finding.state == "warning" for finding in findings)
    print(f"{count(problems, 'problem')}, {count(warnings, 'warning')}")
    return 1 if problems else 0
