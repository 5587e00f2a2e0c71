"""A plan's makespan, span, memory and lower bound as a certificate, and a checker of its own.

In comes a Program with what is claimed of it, out goes one JSON object (`write.certificate`): the
instance in plain figures, start and end of every unit, and evidence for the bound. `certify` takes
its text and gives the claims back, or raises `Refuted`. It is promised that `certify` derives
everything that it compares from the instance alone, with no code of the rest of this project.
"""

from stretto.compiler.certificate.checker.check import certify
from stretto.compiler.certificate.checker.instance import Refuted

__all__ = ["Refuted", "certify"]
