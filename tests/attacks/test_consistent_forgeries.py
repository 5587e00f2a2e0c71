"""Plans that were changed in several places at once so that they agree with themselves: one to
three values of any line changed, often for others of the same field; the text changed, and the
Spec made anew of it; the text left out, so that there is none to compare with; then every figure
computed again, the bound lowered where it must be, all sealed anew. Each is refused, or what it
claims is so by sources that share nothing with the proof: its lists finish in every interleaving,
with the right data; its peaks are those of each list alone, within the limits of its Spec; and
where it has a text, the Spec is that of the text."""

import copy
import re
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from stretto.compiler.bounds.bound import Bound
from stretto.compiler.commands.load import from_plan
from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.evaluation import Settings, evaluate
from stretto.compiler.language.parse import parse, parse_costs
from stretto.compiler.order import WRITTEN
from stretto.compiler.plan.plan import Plan, assemble, read_plan, write_plan
from stretto.compiler.problem.computations import has_collectives
from stretto.compiler.problem.spec import NONE, Spec
from stretto.compiler.program.program import Claims, Compute, Program, ProgramName
from stretto.compiler.proof.prove import prove
from tests.attacks.conftest import Tally
from tests.attacks.test_certificates import places
from tests.attacks.test_plan_kinds import plan as of_kind
from tests.attacks.test_plans import (
    field,
    lines_of,
    open_seals,
    plan_of_parts,
    plans,
    printed,
    sealed,
    with_value,
)
from tests.support import specs
from tests.support.clocks import longest_paths
from tests.support.explorer import alone
from tests.support.mutants import finishes
from tests.support.planned_streams import PlannedStreams

KINDS = ("found", "written", "forwards", "parts", "whole", "inference", "collectives", "imported")


def honest(kind: str) -> Plan:
    if kind in ("parts", "whole"):
        return plan_of_parts(kind)
    return plans()[kind] if kind in ("found", "written", "forwards") else of_kind(kind)


class Forger:
    """Changes a plan's lines."""

    def __init__(self, plan: Plan, folder: Path, random: Random):
        self.plan, self.folder, self.random = plan, folder, random
        self.lines = open_seals(lines_of(plan, folder))
        self.by_field: dict[str, list[tuple[int, tuple[Any, ...]]]] = {}
        for number, line in enumerate(self.lines):
            for path in places(line):
                if path[-1] not in ("bytes", "sha256", "format", "version"):
                    self.by_field.setdefault(field(line, path), []).append((number, path))

    def value(self, number: int, path: tuple[Any, ...]) -> Any:
        found = self.lines[number]
        for step in path:
            found = found[step]
        return found

    def other(self, what: str, value: Any) -> Any:
        """Another value for the field: one that stands elsewhere in it, or near it."""
        choice = self.random.random()
        if choice < 0.5:
            return self.value(*self.random.choice(self.by_field[what]))
        if isinstance(value, int) and not isinstance(value, bool):
            return value + self.random.choice([-1, 1, 1, 2, -value, value, 10**6])
        if isinstance(value, list) and value:
            row = list(value)
            i, j = (self.random.randrange(len(row)) for _ in range(2))
            if choice < 0.8:
                row[i], row[j] = row[j], row[i]
            elif choice < 0.9:
                del row[i]
            else:
                row.insert(i, row[j])
            return row
        return self.random.choice(["x", "", 0, 1, [], {}, [0, 0]])

    def forged(self) -> tuple[Path, list[str]] | None:
        """A forged file, and what was changed; None where it is no plan at all, or cannot be made
        to agree with itself."""
        lines, changed = list(self.lines), list[str]()
        for _ in range(self.random.choice([1, 1, 2, 2, 3])):
            what = self.random.choice(list(self.by_field))
            number, path = self.random.choice(self.by_field[what])
            try:
                other = self.other(what, self.value(number, path))
                lines[number] = with_value(lines[number], path, other)
            except (LookupError, TypeError, AttributeError):
                continue  # an earlier change took this place away
            changed.append(what)
        text = self.random.random() < 0.4 and self.plan.sources
        bare = not text and self.random.random() < 0.6
        lines = copy.deepcopy(lines)
        if bare and isinstance(lines[0], dict):
            lines[0]["sources"] = []
            changed.append("made otherwise")
        try:
            plan = read_plan(sealed(lines, self.folder / "draft.plan"))
            if text:
                changed = [*changed[:1], "text"]
                plan = self.with_text(read_plan(sealed(self.lines, self.folder / "draft.plan")))
            plan = settled(plan)
        except Rejected:
            return None
        except (ValueError, LookupError, TypeError, AttributeError):
            return self.folder / "draft.plan", changed  # nothing of it can be settled: as it is
        write_plan(plan, self.folder / "forged.plan")
        return self.folder / "forged.plan", changed

    def with_text(self, plan: Plan) -> Plan:
        """The plan with one or two numbers of its text changed, and the Spec of that text."""
        text = plan.sources[0].text
        for _ in range(self.random.choice([1, 1, 2])):
            one = self.random.choice(list(re.finditer(r"\d+", text)))
            new = max(0, int(one[0]) + self.random.choice([-1, 1, 1, 3]))
            text = text[: one.start()] + str(new) + text[one.end() :]
        if self.random.random() < 0.3:
            rows = text.split("\n")
            del rows[self.random.randrange(len(rows))]
            text = "\n".join(rows)
        plan = replace(plan, sources=(Source(plan.sources[0].name, text), *plan.sources[1:]))
        return of_spec(plan, spec_of_text(plan))


def spec_of_text(plan: Plan) -> Spec:
    """What its texts say with the parameters that it has."""
    first, *more = plan.sources
    known = next(iter(plan.programs.values())).spec.parameters
    settings = Settings(
        values={name: Fraction(value) for name, value in known.items()},
        costs=parse_costs(more[0]) if more else None,
    )
    return evaluate(parse(first), settings)


def of_spec(plan: Plan, spec: Spec) -> Plan:
    """The same lists for another Spec, each computation citing the line that asks for it."""
    asked = {one: unit.at for row in spec.written for unit in row for one in unit.operations}

    def cited(one: Any) -> Any:
        if not isinstance(one, Compute):
            return one
        at = asked.get(one.operation, spec.pipelines[one.operation.pipeline].at)
        return replace(one, at=at)

    programs = {
        name: replace(
            program, spec=spec, ranks=tuple(tuple(map(cited, row)) for row in program.ranks)
        )
        for name, program in plan.programs.items()
    }
    return replace(plan, programs=programs)


def settled(plan: Plan) -> Plan:
    """The plan with the figures that it has, a bound that it may have, and its hash. Raises
    `Rejected` where it is refused whatever it claims."""
    claims: dict[ProgramName, Claims] = {
        name: prove(program).claims for name, program in plan.programs.items()
    }
    first = claims.get("train") or claims["eval"]
    bound = Bound(min(plan.bound.ticks, first.makespan, first.span), plan.bound.reason)
    spec = next(iter(plan.programs.values())).spec
    engine = plan.engine
    if bool(spec.order) and all(spec.order):
        engine = WRITTEN
    elif engine == WRITTEN:
        engine = "list"
    return assemble(plan.programs, claims, bound, engine, plan.sources, plan.no_evaluation)


def wrong_of(plan: Plan) -> str:
    """What an accepted plan claims that is not so, by the explorer and the tests' own clocks."""
    for name, program in plan.programs.items():
        claimed = plan.claims[name]
        if program.streams:
            found = PlannedStreams(program).figures()
            if found != tuple(getattr(claimed, key) for key in claimed.__struct_fields__):
                return f"{name}: {claimed}, and by the clock {found}"
        elif wrong := of_whole_stages(program, claimed):
            return f"{name}: {wrong}"
        for rank, limit in enumerate(program.spec.limits if name == "train" else ()):
            if limit is not None and limit.grains < claimed.activations[rank]:
                return f"{name}: rank {rank} is over its limit"
        if lacking := set(forwards_of(program.spec)) ^ done_by(program, "F"):
            return f"{name}: {lacking} lack or are too many"
        if name == "train" and done_by(program, "BI") - done_by(program, "F"):
            return f"{name}: a backward without its forward"
    return ""


def of_whole_stages(program: Program, claimed: Claims) -> str:
    """The same where stages have no parts."""
    lists = alone(program)
    peaks = lists.activations, lists.receives, lists.outputs
    if lists.wrong or peaks != tuple(
        list(row) for row in (claimed.activations, claimed.receives, claimed.outputs)
    ):
        return f"{claimed}, and the lists have {peaks} {lists.wrong}"
    if has_collectives(program.spec):
        return ""  # neither the explorer nor the longest paths know of them
    rows = [
        [tuple(o for o in unit if o.kind in "FBIW") for unit in program.operations(rank)]
        for rank in range(len(program.ranks))
    ]
    times = longest_paths(specs.written(program.spec, [[u for u in row if u] for row in rows]))
    spans = [
        max(times[o][1] for u in row for o in u) - min(times[o][0] for u in row for o in u)
        for row in rows
        if row
    ]
    figures = max(end for _, end in times.values()), max(spans)
    if figures != (claimed.makespan, claimed.span):
        return f"{claimed}, and by the longest paths {figures}"
    return finishes(program, 2000)


Place = tuple[int, int, int, int, int]
"""Of an operation all but its kind."""


def done_by(program: Program, kinds: str) -> set[Place]:
    """Which the lists do. Raises `AssertionError` where one is done twice."""
    done = Counter(
        one.operation
        for row in program.ranks
        for one in row
        if isinstance(one, Compute) and one.operation.kind in kinds
    )
    assert all(many == 1 for many in done.values()), done
    return {one[1:] for one in done}


def forwards_of(spec: Spec) -> Iterator[Place]:
    """What the Spec asks for: every stage of each pipeline for each of its micro-batches."""
    for p, line in enumerate(spec.pipelines):
        for s, stage in enumerate(line.stages):
            for m in range(line.microbatches):
                for piece in range(spec.slices) if spec.slices else (NONE,):
                    for part in range(len(stage.parts)) if stage.parts else (NONE,):
                        yield p, s, m, piece, part


@pytest.mark.parametrize("kind", KINDS)
def test_what_agrees_with_itself_is_refused_or_true(
    kind: str, tmp_path: Path, attacks: Callable[[int, int], int], tally: Tally
) -> None:
    plan = honest(kind)
    forger = Forger(plan, tmp_path, Random(kind))
    outcomes = Counter[str]()
    for _ in range(attacks(25, 3000)):
        made = forger.forged()
        if made is None:
            outcomes["refused_at_once"] += 1
            continue
        path, changed = made
        try:
            found = from_plan(str(path))
        except Rejected as rejected:
            assert all(one.message for one in rejected.diagnostics)
            outcomes["refused"] += 1
            continue
        except BaseException:
            print(changed)
            raise
        assert not (wrong := wrong_of(found)), (changed, wrong)
        if found.sources and kind != "whole":
            spec = next(iter(read_plan(path).programs.values())).spec
            assert spec == replace(spec_of_text(found), written=()), changed
        shown = printed(path)
        if not found.sources:
            assert not re.search(r'"line":\d', shown), changed
        outcomes["same" if found.hash == plan.hash else "true"] += 1
    tally(**outcomes)
    print(dict(outcomes))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_false_is_noticed(kind: str) -> None:
    """By the sources above: of the honest plan nothing, of any other figure, and of a list that
    lacks a computation, something."""
    plan = honest(kind)
    assert not wrong_of(plan)
    for name, claimed in plan.claims.items():
        program = plan.programs[name]
        more = tuple(figure + 1 for figure in claimed.activations)
        claims = [replace(claimed, activations=more)]
        if not has_collectives(program.spec):
            claims += [replace(claimed, makespan=claimed.makespan - 1)]
        for other in claims:
            assert wrong_of(replace(plan, claims={**plan.claims, name: other})), other
        row = program.ranks[0]
        first = next(k for k, one in enumerate(row) if isinstance(one, Compute))
        streams = program.streams and (
            program.streams[0][:first] + program.streams[0][first + 1 :],
            *program.streams[1:],
        )
        broken = replace(
            program, ranks=(row[:first] + row[first + 1 :], *program.ranks[1:]), streams=streams
        )
        with pytest.raises((AssertionError, LookupError)):
            wrong = wrong_of(replace(plan, programs={**plan.programs, name: broken}))
            assert not wrong
