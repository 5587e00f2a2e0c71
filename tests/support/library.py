"""The library's files, compiled as the tests need them: name, sizes and costs in, figures and
sequences out, with nothing of ours in between that a file could not have asked for.
"""

from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import NamedTuple

from stretto import schedules
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.evaluation import Settings, evaluate
from stretto.compiler.language.parse import parse, parse_costs
from stretto.compiler.language.syntax import CostFile, Schedule
from stretto.compiler.order.arrange import arrange
from stretto.compiler.order.budget import Budget
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Operation, Spec
from stretto.compiler.program.communicate import communicate
from stretto.compiler.program.program import Program
from stretto.compiler.proof.prove import prove

FOLDER = Path(next(iter(schedules.__path__)))
NAMES = sorted(path.stem for path in FOLDER.glob("*.pipe"))
WITHOUT_ORDER = {"v_half"}
IN_PARTS = {"deepseek_v3", "deepseek_v3_v", "moe_1f1b"}
"""The files whose stages are cut into parts."""
WRITTEN = [name for name in NAMES if name not in WITHOUT_ORDER]
WHOLE = [name for name in WRITTEN if name not in IN_PARTS]

Unit = tuple[Operation, ...]


class Figures(NamedTuple):
    """In the units of the file; peaks per rank."""

    makespan: Fraction
    span: Fraction
    peaks: tuple[Fraction, ...]


def text(name: str) -> str:
    return (FOLDER / f"{name}.pipe").read_text()


def spec(name: str, costs: str = "", /, **values: int | Fraction) -> Spec:
    """A file of the library at other sizes; `costs` is what a file of costs would say."""
    return evaluated(Source(f"{name}.pipe", text(name)), costs, **values)


def evaluated(source: Source, costs: str = "", /, **values: int | Fraction) -> Spec:
    return evaluate(
        _parsed(source),
        Settings(
            values={name: Fraction(value) for name, value in values.items()},
            costs=_costs(costs) if costs else None,
        ),
    )


@cache
def _parsed(source: Source) -> Schedule:
    return parse(source)


@cache
def _costs(costs: str) -> CostFile:
    return parse_costs(Source("costs.pipe", costs))


def program(spec: Spec) -> Program:
    return communicate(arrange(expand(spec), Budget()))


def figures(spec: Spec) -> Figures:
    """What the proof says of the file's Program."""
    claims = prove(program(spec)).claims
    return Figures(
        Fraction(claims.makespan, spec.time_unit),
        Fraction(claims.span, spec.time_unit),
        tuple(Fraction(peak, spec.size_unit) for peak in claims.activations),
    )


def sequences(spec: Spec) -> list[list[Unit]]:
    """For every rank the units that its instruction list runs, in order."""
    compiled = program(spec)
    return [
        [tuple([one.operation for one in unit]) for unit in compiled.units(rank)]
        for rank in range(spec.ranks)
    ]
