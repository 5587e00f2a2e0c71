"""`stretto certify FILE`: check a certificate that `compile --certificate` wrote."""

import json
from argparse import ArgumentParser, Namespace
from fractions import Fraction

from stretto.compiler.certificate.checker.check import certify
from stretto.compiler.certificate.checker.instance import Refuted
from stretto.compiler.certificate.write import unproven
from stretto.compiler.commands import files


def add(parser: ArgumentParser) -> None:
    """The flags of `certify`."""
    parser.add_argument(
        "file", metavar="FILE", help="a certificate, as `stretto compile --certificate` writes it"
    )


def run(chosen: Namespace) -> int:
    """Check the certificate and print what it proves. Returns 1 where it is refuted."""
    text = files.schedule(chosen.file).text
    try:
        certificate = json.loads(text)
    except ValueError:
        raise files.Unusable(
            f"`{chosen.file}` is no certificate; `stretto compile … --certificate FILE` writes one"
        ) from None
    try:
        claims = certify(text)
    except Refuted as error:
        files.say(f"{chosen.file}: refuted: {error}")
        return 1
    time, size = certificate.get("time_unit", 1), certificate.get("size_unit", 1)
    bound = Fraction(claims["bound"], time)
    rows = {
        "makespan": Fraction(claims["makespan"], time),
        "span": Fraction(claims["span"], time),
        "lower bound": f"{bound} of the {claims['minimize']}{_kept(text)}",
        "activations": f"{max(Fraction(n, size) for n in claims['peaks'])} at most on a rank",
        "optimal": "proven" if claims["optimal"] else "not proven",
    }
    for name, value in rows.items():
        print(f"{name:<13}{value}")
    if weaker := unproven(text):
        print(f"{'not shown':<13}{weaker}")
    return 0


def _kept(text: str) -> str:
    """Of which orders, where these are not all."""
    fixed = any(json.loads(text)["instance"]["fixed"])
    return ", over the orders that keep the part that was given" if fixed else ""
