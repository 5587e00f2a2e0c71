"""A kind of operation that the project does not have is added from outside: a row in each table,
and nothing else. `C` is a checksum of what a stage's forward has put out: it comes right behind the
forward, costs time, holds memory while it runs, and sends nothing. CONTRIBUTING lists the same
rows ("A new kind of operation")."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, get_args

import pytest
import torch
from msgspec.structs import replace

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.plan.plan import read_plan, write_plan
from stretto.compiler.problem import kinds
from stretto.compiler.problem.kinds import MemoryEffect, OperationKind
from stretto.compiler.problem.spec import Operation, Spec
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicate
from stretto.compiler.program.program import Compute, Instruction, Program
from stretto.compiler.proof import kinds as obligations
from stretto.compiler.proof.kinds import FORWARD, KindObligation
from stretto.compiler.proof.prove import prove, prove_all
from stretto.compiler.proof.rank import EFFECTS
from stretto.compiler.show import Look, draw
from stretto.compiler.show import json as json_rows
from stretto.compiler.show import kinds as pictures
from stretto.compiler.show.kinds import KindStyle, Tone
from stretto.runtime import interpreter
from stretto.runtime.bound import BoundCompute
from stretto.runtime.interpreter import Interpreter
from tests.support import library
from tests.support.parts_orders import random_order
from tests.support.paths import ROOT
from tests.support.training import batch, plan_of, spec_of, trained

TICKS = 3
NAME = "C"
Checksums = dict[Operation, float]


@pytest.fixture
def checksums() -> Iterator[Checksums]:
    """The rows of `C`, in the tables and out again; what its operations found."""
    found: Checksums = {}

    def checksum(run: Interpreter, own: BoundCompute) -> tuple[torch.Tensor, ...]:
        """In the interpreter: the sum over the stage's output."""
        operation = own.operation
        forward = operation._replace(kind="F")
        (writes,) = [
            one.writes
            for one in run.program.instructions
            if isinstance(one, Compute) and one.operation == forward
        ]
        outputs = run.outputs.get(operation.pipeline, {})
        output: Any = run.slots[writes][0] if writes >= 0 else outputs[operation.microbatch]
        found[operation] = float(output.sum())
        return ()

    rows: dict[str, tuple[dict[str, Any], object]] = {
        # the operation, its memory, and that `communicate` puts it behind a forward
        "kind": (
            kinds.KINDS,
            OperationKind(
                NAME,
                "checksum",
                lambda stage, trained: MemoryEffect(stage.activation, stage.activation),
                follows="F",
                behind="F",
            ),
        ),
        "obligation": (
            obligations.KINDS,
            KindObligation(
                "checksum",
                bit=16,
                bars=16,
                after=FORWARD,
                required=True,
                ordered=False,
                alloc=lambda stage, trained: stage.activation,
                free=lambda stage, trained: stage.activation,
            ),
        ),
        "interpreter": (interpreter.OPERATIONS, checksum),
        "picture": (
            pictures.STYLES,
            KindStyle((Tone(130, 50, 70), Tone(100, 50, 60))),
        ),
    }
    for table, row in rows.values():
        table[NAME] = row
    try:
        yield found
    finally:
        for table, _ in rows.values():
            del table[NAME]


def spec(name: str = "zb_h1") -> Spec:
    """A schedule of the library whose stages say what a checksum costs."""
    plain = library.spec(name, ranks=2, microbatches=4)
    pipelines = [
        replace(
            pipeline,
            stages=tuple(replace(stage, further={NAME: TICKS}) for stage in pipeline.stages),
        )
        for pipeline in plain.pipelines
    ]
    return replace(plain, pipelines=tuple(pipelines))


def runs(program: Program) -> list[Operation]:
    """The checksums of a Program."""
    computed = [unit for rank in range(len(program.ranks)) for unit in program.units(rank)]
    return [one.operation for unit in computed for one in unit if one.operation.kind == NAME]


@pytest.mark.parametrize("name", ["zb_h1", "dualpipe"])
def test_a_plan_has_it_with_its_time_and_memory(checksums: Checksums, name: str) -> None:
    plan = plan_of(spec(name))
    program = plan.programs["train"]
    forwards = sum(len(p.stages) * p.microbatches for p in program.spec.pipelines)
    assert len(runs(program)) == len(set(runs(program))) == forwards
    assert not runs(plan.programs["eval"])
    proofs = prove_all(plan.programs, plan.claims)
    plain = claims(replace(program, ranks=tuple(map(without, program.ranks))))
    found = proofs["train"].claims
    assert found.busy == plain.busy + forwards * TICKS
    held = max(stage.activation for p in program.spec.pipelines for stage in p.stages)
    assert max(found.activations) == max(plain.activations) + held


def test_it_is_written_and_read(checksums: Checksums, tmp_path: Path) -> None:
    plan = plan_of(spec())
    write_plan(plan, tmp_path / "plan")
    again = read_plan(tmp_path / "plan")
    assert again.hash == plan.hash and runs(again.programs["train"])
    prove_all(again.programs, again.claims)


def test_it_runs(checksums: Checksums) -> None:
    """On every stage and micro-batch, and on what the stage has put out."""
    plan = plan_of(spec())
    x, target = batch(spec_of(plan))
    results = trained(plan, x, target)
    assert checksums.keys() == set(runs(plan.programs["train"]))
    last = [v for o, v in sorted(checksums.items()) if o.stage == 1]
    outputs = torch.cat([out for out in results.outputs if out is not None])
    wanted = [float(rows.sum()) for rows in outputs.chunk(len(last))]
    assert last == wanted


@pytest.mark.parametrize("format", ["text", "svg", "json"])
def test_it_is_drawn(checksums: Checksums, format: str) -> None:
    picture = draw(plan_of(spec()), format, "train", Look())
    if format == "json":
        timeline = json.loads(picture)["timeline"]
        bars = [bar for rank in timeline for bar in rank if bar["op"] == NAME]
        assert len(bars) == 8 and {bar["end"] - bar["start"] for bar in bars} == {TICKS}
    else:
        assert "checksum" in picture or f"{NAME} " in picture


def without(row: tuple[Instruction, ...]) -> tuple[Instruction, ...]:
    """The list without its checksums."""
    return tuple(one for one in row if not is_checksum(one))


def is_checksum(one: Instruction) -> bool:
    return isinstance(one, Compute) and one.operation.kind == NAME


def drop(row: list[Instruction], k: int) -> None:
    del row[k]


def double(row: list[Instruction], k: int) -> None:
    row.insert(k, row[k])


def too_early(row: list[Instruction], k: int) -> None:
    row.insert(0, row.pop(k))


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        (drop, "missing-operation"),
        (double, "repeated-operation"),
        (too_early, "too-early"),
    ],
)
def test_the_proof_refuses_a_plan_that_is_wrong_about_it(
    checksums: Checksums, broken: Callable[[list[Instruction], int], None], code: str
) -> None:
    program = plan_of(spec()).programs["train"]
    row = list(program.ranks[0])
    k = max(k for k, one in enumerate(row) if is_checksum(one))
    broken(row, k)
    with pytest.raises(Rejected) as caught:
        prove(replace(program, ranks=(tuple(row), *program.ranks[1:])))
    assert [found.code for found in caught.value.diagnostics] == [code]
    assert "C main[0, " in caught.value.diagnostics[0].message


def test_it_is_refused_beside_parts(checksums: Checksums) -> None:
    """A forward is several operations there, and nothing says which one it would stand behind."""
    with pytest.raises(Rejected, match="a checksum cannot stand behind `F` yet"):
        communicate(random_order(Random(0)))


def test_afterwards_it_is_unknown(tmp_path: Path) -> None:
    """The tables are as they were, and a plan that has it is refused."""
    tables = kinds.KINDS, obligations.KINDS, interpreter.OPERATIONS, pictures.STYLES
    assert [list(table) for table in tables] == [["F", "B", "I", "W"]] * 4
    path = tmp_path / "plan"
    write_plan(plan_of(spec()), path)
    with pytest.raises(Rejected, match="this version does not know 'C'"):
        read_plan(path)


def test_contributing_lists_the_same_places() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    section = text.split("### A new kind of operation")[1].split("\n#")[0]
    named = set(re.findall(r"`((?:compiler|runtime)/[\w/]+\.py)`", section))
    assert named == {
        "compiler/problem/kinds.py",
        "compiler/problem/spec.py",
        "compiler/proof/kinds.py",
        "compiler/show/kinds.py",
        "runtime/interpreter.py",
    }


def test_every_instruction_is_in_every_table() -> None:
    """Beside kinds of operations there are types of instructions, with tables of their own."""
    every = set(get_args(Instruction))
    assert set(EFFECTS) == set(interpreter.INSTRUCTIONS) == set(json_rows.INSTRUCTIONS) == every
