"""`stretto certify FILE`: check a certificate that `compile --certificate` wrote, and with `--plan`
that it is of that plan."""

import json
import sys
from argparse import ArgumentParser, Namespace
from fractions import Fraction
from typing import Any

from stretto.compiler.certificate.checker.check import certify
from stretto.compiler.certificate.checker.instance import Refuted
from stretto.compiler.certificate.checker.shape import LONGEST, Unreadable
from stretto.compiler.certificate.write import of_program, unproven
from stretto.compiler.commands import files, screen
from stretto.compiler.commands.load import from_plan
from stretto.compiler.diagnostics.layout import labelled
from stretto.compiler.diagnostics.printable import one_line
from stretto.compiler.problem.figures import figure, size_in
from stretto.compiler.show.summary import step_of

EXAMPLES = """\
  stretto certify v_half.json --plan v_half.plan"""


def add(parser: ArgumentParser) -> None:
    """The flags of `certify`."""
    parser.add_argument(
        "file", metavar="FILE", help="a certificate, as `stretto compile --certificate` writes it"
    )
    parser.add_argument(
        "--plan",
        metavar="PLAN",
        help="also confirm that the certificate is of this plan, and read and prove the plan",
    )


def run(chosen: Namespace) -> int:
    """Check the certificate and print what it proves. Returns 1 where it is refuted."""
    text = files.bounded(chosen.file, LONGEST)
    try:
        claims = certify(text)
        certificate = json.loads(text)
        if chosen.plan is not None:
            _is_of(certificate, chosen.plan)
    except Unreadable:
        raise files.Unusable(
            f"`{chosen.file}` is no certificate; `stretto compile … --certificate FILE` writes one"
        ) from None
    except Refuted as error:
        files.say(f"{chosen.file}: refuted: {error}")
        return 1
    time, size = certificate["time_unit"], certificate["size_unit"]
    bound, peak = Fraction(claims["bound"], time), Fraction(max(claims["peaks"]), size)
    held = size_in(certificate.get("sizes_in", ""), peak, "up")
    rows = {
        "schedule": certificate["schedule_name"],
        "makespan": figure(Fraction(claims["makespan"], time)),
        "span": figure(Fraction(claims["span"], time)),
        "lower bound": f"{figure(bound, 'down')} of the {claims['minimize']}{_kept(certificate)}",
        "activations": f"{held} at most on a rank",
        "optimal": "proven" if claims["optimal"] else "not proven",
        "plan": _plan(certificate, chosen),
    }
    if weaker := unproven(certificate):
        rows["not shown"] = weaker
    safe = {name: one_line(value) for name, value in rows.items()}
    print(*labelled(safe, screen.width(sys.stdout)), sep="\n")
    return 0


def _kept(certificate: dict[str, Any]) -> str:
    """Of which orders, where these are not all."""
    fixed = any(certificate["instance"]["fixed"])
    return ", over the orders that keep the part that was given" if fixed else ""


def _plan(certificate: dict[str, Any], chosen: Namespace) -> str:
    """Which plan it is of, and who says so."""
    if "plan" not in certificate:
        return "none is named"
    if chosen.plan is not None:
        return f"{certificate['plan']}: it is {chosen.plan}"
    return f"{certificate['plan']} by its own word; `--plan PLAN` compares"


def _is_of(certificate: dict[str, Any], name: str) -> None:
    """Raises `Refuted` unless the certificate is of this plan: it names its hash, and says of what
    is to be done, when everything runs and in which units what the plan says."""
    if not files.is_plan(name):
        raise files.Unusable(f"`{name}` is no plan; `stretto compile FILE -o PLAN` writes one")
    plan = from_plan(name)
    step = step_of(plan)
    if "plan" not in certificate:
        raise Refuted(
            "it names no plan, so that it cannot be told whether it is of this one; "
            "`stretto compile … -o PLAN --certificate FILE` writes both"
        )
    if certificate["plan"] != plan.hash:
        own = plan.programs[step].spec.name
        same = certificate["schedule_name"] == own
        what = f"another version of `{own}`" if same else "another plan"
        hashes = f"{certificate['plan'][:12]}, and {name} is {plan.hash[:12]}"
        raise Refuted(
            f"it is of {what}: it names the plan {hashes}; `stretto compile {name} --certificate "
            "FILE` writes the one of this plan"
        )
    sizes_in = plan.programs[step].spec.sizes_in
    if certificate.get("sizes_in", sizes_in) != sizes_in:
        raise Refuted("it names this plan, and shows sizes in another unit: it was forged")
    for key, value in of_program(plan.programs[step]).items():
        if certificate[key] != json.loads(json.dumps(value)):
            raise Refuted(f"it names this plan, and has another `{key}`: it was forged")
