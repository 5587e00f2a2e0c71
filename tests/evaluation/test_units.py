"""A unit of sizes is known wherever sizes are written, told or checked: its table is one, but for
the grammar's token and the list of the checker of certificates, which reads nothing of ours."""

from argparse import ArgumentTypeError

import pytest

from stretto.compiler.certificate.checker.instance import Refuted
from stretto.compiler.certificate.checker.shape import BESIDE
from stretto.compiler.commands.flags import fraction
from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.driver import compile_text
from stretto.compiler.problem.figures import size_figure
from stretto.compiler.units import UNITS

TEXT = """schedule sized
ranks 2
microbatches 2
pipeline main {{ stages 2 }}
activation = 1 {0}
limit activations <= 2 {0}
order rank r {{ repeat 2 {{ F }}  repeat 2 {{ B }} }}
"""
OTHERS = ("PiB", "KB", "kib", "iB")


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_known_everywhere(unit: str) -> None:
    plan = compile_text(TEXT.format(unit), "sized.pipe")
    peak = plan.claims["train"].activations[0]
    assert size_figure(plan.programs["train"].spec, peak) == f"2 {unit}"
    assert fraction(f"3 {unit}") == 3 * UNITS[unit]
    BESIDE["sizes_in"](unit, "sizes_in")


@pytest.mark.parametrize("unit", OTHERS)
def test_another_is_refused_everywhere(unit: str) -> None:
    with pytest.raises(Rejected):
        compile_text(TEXT.format(unit), "sized.pipe")
    with pytest.raises(ArgumentTypeError):
        fraction(f"3 {unit}")
    with pytest.raises(Refuted):
        BESIDE["sizes_in"](unit, "sizes_in")
