"""A plan that was read → the same plan, with what may be said of it. In comes what `read_plan` made
of a file, which is well formed, no more. Promised of what comes out: it is proved; where it has its
text, its Spec is what text, parameters and costs give now, so that the lines it cites are those
that ask for it; and its lower bound was worked out here. What nobody can check in a short time, an
exhaustive search's result, is set apart as stated.

A plan without a text was made otherwise, by an import or by hand. It is proved against its Spec,
and cites no lines.
"""

from collections.abc import Iterator
from dataclasses import replace as changed
from fractions import Fraction

from msgspec.structs import fields, replace

from stretto.compiler.bounds.best import best, bound_context
from stretto.compiler.bounds.bound import EXHAUSTIVE, Bound, bound
from stretto.compiler.bounds.eval_bound import forwards_bound
from stretto.compiler.diagnostics.diagnostic import Diagnostic, Rejected
from stretto.compiler.evaluation import Settings, evaluate
from stretto.compiler.evaluation.settings import MOST_OPERATIONS, assuming
from stretto.compiler.language.parse import parse, parse_costs
from stretto.compiler.order import WRITTEN
from stretto.compiler.order.engines.table import finders
from stretto.compiler.order.written import incomplete, order_like, written
from stretto.compiler.plan.plan import Plan
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import MAIN_KINDS, NONE, Spec, show
from stretto.compiler.problem.whole import whole_spec
from stretto.compiler.program.communicate import rules_that_forwards_break
from stretto.compiler.program.program import Compute, Program, ProgramName
from stretto.compiler.program.whole import whole_order
from stretto.compiler.proof.prove import prove_all

MOST_SOURCES = 2  # the schedule, and a file of costs


def verify(plan: Plan) -> Plan:
    """The plan with `verified`, the bound that was worked out here, and with the parts of an order
    that were written, which files leave out. Raises `Rejected`: `other-text`, `false-claim`, and
    what the proof finds."""
    plan = _with_text(plan) if plan.sources else _without_lines(plan)
    try:
        prove_all(plan.programs, plan.claims)
    except Rejected as error:
        if plan.sources:
            raise
        raise Rejected(changed(one, labels=()) for one in error.diagnostics) from None
    _engine(plan)
    _evaluation(plan)
    return replace(plan, verified=_bound(plan))


# ---------------------------------------------------------------------------- text and Spec


def _with_text(plan: Plan) -> Plan:
    """The plan with the Spec of its own text, which must be the one that it has."""
    spec = next(iter(plan.programs.values())).spec
    if len(plan.sources) > MOST_SOURCES:
        raise _other(f"it has {len(plan.sources)} texts; a plan is made of a schedule and costs")
    assumed: list[str] = []
    again = _evaluated(plan, spec, assumed)
    if again.parts and not spec.parts:  # it was compiled with `--whole`
        again = _whole(again)
    found = replace(again, written=(), ties=spec.ties)  # ties are the model's, not the text's
    if found != spec:
        raise _other(", ".join(_differences(spec, found)))
    own = replace(again, ties=spec.ties)
    for program in plan.programs.values():
        _lines(program, own)
    programs = {name: replace(program, spec=own) for name, program in plan.programs.items()}
    return replace(plan, programs=programs, assumed=tuple(assumed))


def _whole(spec: Spec) -> Spec:
    """The Spec whose stages run whole. Where the author did not write all of the order, nobody but
    the search knows it."""
    try:
        problem = expand(spec)
        return (
            whole_spec(spec) if incomplete(problem) else whole_order(written(problem)).problem.spec
        )
    except Rejected as error:
        raise _other(f"its text says: {error.diagnostics[0].message}") from None


def _evaluated(plan: Plan, spec: Spec, assumed: list[str]) -> Spec:
    """What the texts say with the plan's parameters; what they leave to assume goes to
    `assumed`."""
    first, *more = plan.sources
    work = sum(
        line.microbatches * max(1, len(stage.parts))
        for line in spec.pipelines
        for stage in line.stages
    )
    try:
        settings = Settings(
            values={name: Fraction(value) for name, value in spec.parameters.items()},
            costs=parse_costs(more[0]) if more else None,
            max_ops=max(MOST_OPERATIONS, 12 * work * max(1, spec.slices)),
            doubt=assuming(assumed),
        )
        return evaluate(parse(first), settings)
    except Rejected as error:
        raise _other(f"its text says: {error.diagnostics[0].message}") from None


def _differences(spec: Spec, found: Spec) -> Iterator[str]:
    """In which parts the Spec is another one than that of the text."""
    for field in fields(Spec):
        if getattr(spec, field.name) != getattr(found, field.name):
            yield f"it has other {WORDS.get(field.name, f'`{field.name}`')}"


def _lines(program: Program, spec: Spec) -> None:
    """Every computation cites the text that asks for it: the place in an order that was written,
    else its pipeline."""
    asked = {one: unit.at for row in spec.written for unit in row for one in unit.operations}
    for rank, row in enumerate(program.ranks):
        for one in row:
            if isinstance(one, Compute) and one.operation.kind in MAIN_KINDS:
                operation = one.operation
                if one.at != asked.get(operation, spec.pipelines[operation.pipeline].at):
                    what = show(spec, operation)
                    raise _other(f"rank {rank} cites another line for `{what}` than asks for it")


WORDS = {
    "name": "words for its name",
    "ranks": "ranks",
    "microbatches": "micro-batches",
    "pipelines": "pipelines, stages or costs",
    "time_unit": "units of time",
    "size_unit": "units of size",
    "spans": "lines",
    "parameters": "parameters",
    "pairs": "costs of overlapped units",
    "exceptional_pairs": "costs of overlapped units",
    "exceptions": "costs of single operations",
    "transfers": "costs of transfers",
    "limits": "limits",
    "rules": "rules",
    "order": "orders",
    "streams": "streams",
    "parts": "parts of its stages",
    "joined": "pairs in its orders",
    "rounded": "roundings",
    "sizes_in": "unit of its sizes",
}
"""What a difference of a field of the Spec is for who reads it."""


def _other(why: str) -> Rejected:
    return Rejected(
        [
            Diagnostic(
                "other-text",
                f"the plan is not what its own text says now: {why}",
                help="compile it anew from its schedule",
            )
        ]
    )


def _without_lines(plan: Plan) -> Plan:
    """The plan as one that cites nothing: there is no text to look at, and none to say how many
    micro-batches the step has, beyond those of its pipelines."""
    spec = next(iter(plan.programs.values())).spec
    shares = [line.microbatches for line in spec.pipelines]
    if not max(shares, default=0) <= spec.microbatches <= sum(shares):
        _false(f"the plan claims {spec.microbatches} micro-batches, its pipelines have {shares}")
    if spec.jitter != (0, 1):
        _false("the plan claims that its order was looked for under jitter, and has no text")
    if any(spec.order) and not all(spec.order):
        _false("the plan claims the order of some ranks, and has no text that leaves out others'")
    return replace(plan, programs={n: _unlined(program) for n, program in plan.programs.items()})


def _unlined(program: Program) -> Program:
    return replace(
        program,
        ranks=tuple(
            tuple(
                replace(one, at=NONE) if isinstance(one, Compute) and one.at != NONE else one
                for one in row
            )
            for row in program.ranks
        ),
    )


# ---------------------------------------------------------------------------- what is claimed


def _engine(plan: Plan) -> None:
    """Whether the author wrote the order is for his text to say, or for the orders that a plan
    without one has; a search's engine is one that there is."""
    program = next(iter(plan.programs.values()))
    whole = bool(program.spec.order) and all(program.spec.order)
    if whole != (plan.engine == WRITTEN) or (not whole and plan.engine not in finders()):
        by = "its author's" if whole else "a search's"
        where = "text" if plan.sources else "orders"
        _false(f"the plan claims an order by `{plan.engine}`, and by its {where} it is {by}")


def _evaluation(plan: Plan) -> None:
    """That a step has no evaluation beside it is so for the reason that the plan gives."""
    if not plan.no_evaluation:
        return
    program = plan.programs["train"]
    units = [
        [
            own
            for unit in program.operations(rank)
            if (own := tuple(o for o in unit if o.kind in MAIN_KINDS))
        ]
        for rank in range(program.spec.ranks)
    ]
    order = order_like(expand(program.spec), units, plan.engine)
    unkept = rules_that_forwards_break(order)
    if not unkept:
        _false("the plan claims that its forwards alone break a rule, and they keep all")
    if unkept[0].message != plan.no_evaluation:
        _false(f"the plan claims another reason for no evaluation than that {unkept[0].message}")


def _bound(plan: Plan) -> Bound:
    """The lower bound, worked out anew. Raises `Rejected` where the plan's own is none: not above 0
    though there is work, above what the plan itself reaches, or above this one though no search is
    said to have shown it."""
    name: ProgramName = "train" if "train" in plan.programs else "eval"
    spec, claims = plan.programs[name].spec, plan.claims[name]
    found = forwards_bound(spec) if name == "eval" else _worked_out(plan.programs[name])
    reached = claims.span if spec.minimize == "span" else claims.makespan
    ticks = plan.bound.ticks
    if found.ticks > reached:
        raise RuntimeError("a plan that was proved is better than its lower bound")
    if ticks > reached:
        _false(f"the plan claims a lower bound of {ticks} ticks, and itself takes {reached}")
    if ticks < 0 or (ticks == 0 and found.ticks > 0):
        _false(f"the plan claims a lower bound of {ticks} ticks, it is at least {found.ticks}")
    if ticks > found.ticks and plan.bound.reason != EXHAUSTIVE:
        text = f"the plan claims a lower bound of {ticks} ticks"
        _false(f"{text} by a theorem, and the theorems say {found.ticks}")
    return found


def _worked_out(program: Program) -> Bound:
    """What the theorems say of the step. Where the order has halves of backwards, the bound is over
    orders that may have them; parts leave no choice."""
    if program.spec.parts:
        return bound(expand(program.spec))
    halves = any(
        isinstance(one, Compute) and one.operation.kind in "IW"
        for row in program.ranks
        for one in row
    )
    spec = program.spec
    finding = best(bound_context(replace(spec, split_backward=spec.split_backward or halves)))
    return Bound(finding.ticks, finding.reason(finding.subject))


def _false(message: str) -> None:
    raise Rejected([Diagnostic("false-claim", message)])
