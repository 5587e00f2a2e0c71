"""What a plan amounts to, in the figures of `docs/json.md`: as one JSON object, as a few lines, and
as the headline of a picture. All of it comes from the claims, which the proof has recomputed.
"""

from fractions import Fraction
from math import floor, log10

from msgspec import Struct
from msgspec.structs import replace

from stretto.compiler.analysis.jitter import JitteredMean, mean_under_jitter
from stretto.compiler.bounds.bound import Bound, bound, whole_bound
from stretto.compiler.bounds.eval_bound import forwards_bound
from stretto.compiler.diagnostics.layout import labelled
from stretto.compiler.diagnostics.wording import count
from stretto.compiler.order import WRITTEN
from stretto.compiler.plan.plan import Plan
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.figures import at_most, figure, size_in
from stretto.compiler.problem.spec import NONE, Spec, number
from stretto.compiler.program.program import Claims, Compute, Program, ProgramName
from stretto.compiler.program.timeline import time

MOST_BOUNDED = 300_000
"""Instructions, beyond which no second bound is worked out."""
LEAST = 0.0005  # of 1: what would be written as 0.0 %
TENTH = Fraction(1, 1000)  # a tenth of a percent


class HiddenSummary(Struct, frozen=True):
    """Of one rank, how much of the time on other streams than `compute` lies under computation:
    over the step as times and `share`, and as shares of its steady state and its ramps."""

    time: int | str
    hidden: int | str
    share: float | None
    steady: float | None
    ramps: float | None


class Summary(Struct, frozen=True):
    """One object of `compile --json`; its keys and their meaning stand in `docs/json.md`."""

    schedule: str
    ranks: int
    microbatches: int
    operations: int
    minimize: str
    makespan: int | str
    span: int | str
    lower_bound: int | str
    stated_bound: int | str | None
    gap: float
    optimal: bool
    bubble: float
    span_bubble: float
    peak_activations: tuple[int | str, ...]
    sizes_in: str
    weight_copies: int
    engine: str
    hash: str
    streams: tuple[str, ...]
    hidden: tuple[HiddenSummary | None, ...]
    stages: int | str
    jitter: float
    mean: JitteredMean | None
    bound_of: str
    makespan_bound: int | str | None
    limited: bool
    no_evaluation: str | None = None
    assumed: tuple[str, ...] = ()


def summarize(
    program: Program,
    claims: Claims,
    known: Bound,
    engine: str,
    plan_hash: str,
    stated: Bound | None = None,
) -> Summary:
    """The figures of one Program with these claims, this engine and the plan's hash. `known`: the
    lower bound; `stated`: one that was read, and counts for nothing."""
    spec = program.spec
    reached = claims.span if spec.minimize == "span" else claims.makespan
    least = makespan_bound(program, known)
    return Summary(
        schedule=spec.name,
        ranks=spec.ranks,
        microbatches=spec.microbatches,
        operations=sum(isinstance(i, Compute) for rank in program.ranks for i in rank),
        minimize=spec.minimize,
        makespan=number(claims.makespan, spec.time_unit),
        span=number(claims.span, spec.time_unit),
        lower_bound=number(known.ticks, spec.time_unit),
        stated_bound=number(stated.ticks, spec.time_unit) if stated else None,
        gap=float(Fraction(reached - known.ticks, known.ticks)) if known.ticks else 0.0,
        optimal=reached == known.ticks,
        bubble=_bubble(spec, claims, claims.makespan),
        span_bubble=_bubble(spec, claims, claims.span),
        peak_activations=tuple(number(peak, spec.size_unit) for peak in claims.activations),
        sizes_in=spec.sizes_in,
        weight_copies=weight_copies(spec),
        engine=engine,
        hash=plan_hash,
        streams=spec.streams,
        hidden=hidden_of(program) if spec.streams else (None,) * spec.ranks,
        stages=number(stages(spec)),
        jitter=float(Fraction(*spec.jitter)),
        mean=mean_under_jitter(program),
        bound_of=spec.minimize,
        makespan_bound=None if least is None else number(least, spec.time_unit),
        limited=any(spec.limits),
    )


def stages(spec: Spec) -> Fraction:
    """How many stages of a model a rank holds, of one copy of it, on average."""
    models = [p for p in spec.pipelines if p.replicates == NONE]
    return Fraction(sum(len(p.stages) for p in models), spec.ranks * len(models))


def makespan_bound(program: Program, known: Bound) -> int | None:
    """A lower bound of the makespan (ticks): the plan's own, or where that is one of the span,
    worked out here; None of a step that is too large for it."""
    spec = program.spec
    if spec.minimize == "makespan":
        return known.ticks
    if sum(map(len, program.ranks)) > MOST_BOUNDED:
        return None
    aimed = replace(spec, minimize="makespan")
    if program.name == "eval":
        found = forwards_bound(aimed)
    else:
        found = bound(expand(aimed)) if spec.parts else whole_bound(aimed)
    return max(known.ticks, found.ticks)


def _bubble(spec: Spec, claims: Claims, time: int) -> float:
    """The part of this time that a rank is idle, on average over the ranks."""
    return 1 - claims.busy / (spec.ranks * time) if time else 0.0


def hidden_of(program: Program) -> tuple[HiddenSummary | None, ...]:
    """Rank by rank; None where no time is spent on other streams."""
    from stretto.compiler.analysis.hidden import hidden  # only plans with streams need it

    unit = program.spec.time_unit
    return tuple(
        [
            HiddenSummary(
                number(one.all.time, unit),
                number(one.all.hidden, unit),
                one.all.share,
                one.steady.share,
                one.ramps.share,
            )
            if one
            else None
            for one in hidden(time(program))
        ]
    )


def of_plan(plan: Plan) -> Summary:
    """The summary of the plan's step."""
    name = step_of(plan)
    known, stated = bounds(plan)
    found = summarize(plan.programs[name], plan.claims[name], known, plan.engine, plan.hash, stated)
    return replace(found, no_evaluation=plan.no_evaluation or None, assumed=plan.assumed)


def bounds(plan: Plan) -> tuple[Bound, Bound | None]:
    """The lower bound that was worked out in this process, and the one that the plan states beyond
    it, where it does."""
    if plan.verified is None:
        return plan.bound, None
    return plan.verified, plan.bound if plan.bound.ticks > plan.verified.ticks else None


def step_of(plan: Plan) -> ProgramName:
    """Which of its Programs a plan is about: the training step, or where there is none the
    forwards."""
    return "train" if "train" in plan.programs else "eval"


def weight_copies(spec: Spec) -> int:
    """How many ranks hold a weight, at most over all weights."""
    holders: dict[tuple[int, int], set[int]] = {}
    for p, pipeline in enumerate(spec.pipelines):
        original = p if pipeline.replicates == NONE else pipeline.replicates
        for s, stage in enumerate(pipeline.stages):
            holders.setdefault((original, s), set()).add(stage.rank)
    return max(map(len, holders.values()))


def times(s: Summary) -> str:
    """What was to be short, and how short it could be; with the makespan in any case."""
    if s.minimize == "span":
        least = s.makespan_bound
        bounded = "" if least is None else f" (lower bound {figure(least, 'down')})"
        return (
            f"span {figure(s.span)} ({distance(s)}), makespan {figure(s.makespan)}{bounded}"
            f"{_mean(s)}"
        )
    return f"makespan {figure(s.makespan)} ({distance(s)}){_mean(s)}"


def _mean(s: Summary) -> str:
    return f", {mean_words(s.minimize, s.jitter, s.mean)}" if s.mean else ""


def mean_words(aim: str, jitter: float, mean: JitteredMean) -> str:
    """The mean of what is minimized, with its standard error, and what is varied."""
    shown = figure(Fraction(mean.value))
    if mean.error:
        places = max(0, 1 - floor(log10(mean.error)))  # two figures of the error
        shown = f"{mean.value:.{places}f} ± {mean.error:.{places}f}"
    return f"mean {aim} {shown} where durations vary by {percent(jitter)}"


def distance(s: Summary) -> str:
    """How far from the best possible: `optimal`, or the bound and the gap to it. Under jitter of
    durations as they are stated, which is not what the order was chosen by."""
    stated = " without jitter" if s.jitter else ""
    if s.optimal:
        return f"optimal{stated}"
    found = f"lower bound {figure(s.lower_bound, 'down')}, {away(s)} from optimal{stated}"
    if s.stated_bound is not None:
        found += f"; stated, not checked: {figure(s.stated_bound, 'down')} by an exhaustive search"
    return found


def any_memory(s: Summary) -> str:
    """What a bound is over where nothing limits memory, and how to have it over less; empty where
    something does, or the order is optimal anyway."""
    if s.limited or s.optimal:
        return ""
    held = largest(s)
    return (
        f"over all orders, however much they hold: with `limit activations <= {held}`, which this "
        "one keeps, it is over those that keep it too, and may be higher"
    )


def away(s: Summary) -> str:
    """How far from its bound, which may be met: `at most 4.8 %`."""
    return away_from(*of_bound(s))


def away_from(reached: Fraction | int, bound: Fraction | int) -> str:
    """How far what is reached is from a bound, which may be met; rounded up."""
    if not bound:
        return "unknown how far"
    gap = Fraction(reached) / bound - 1
    return "less than 0.1 %" if gap < TENTH else f"at most {at_most(gap)}"


def of_bound(s: Summary) -> tuple[Fraction, Fraction]:
    """What the order reaches of what it aims at, and the lower bound of that."""
    reached = s.span if s.minimize == "span" else s.makespan
    return Fraction(reached), Fraction(s.lower_bound)


def figures(s: Summary) -> str:
    """The line under a picture's name."""
    noun = "activation" if largest(s) == "1" else "activations"
    share = hidden_share(s)
    hidden = "" if share is None else f"{percent(share)} hidden · "
    return (
        f"{count(s.ranks, 'rank')}, {count(s.microbatches, 'micro-batch', 'micro-batches')} · "
        f"{times(s)} · bubble {bubble(s)} · {hidden}"
        f"peak {largest(s)}{'' if s.sizes_in else f' {noun}'}"
        f"{' · partly assumed' if s.assumed else ''}"
    )


def table(s: Summary, width: int | None = None) -> str:
    """What `compile` prints: a figure per line, its name in front; in lines of this width."""
    order = "as written" if s.engine == WRITTEN else f"found by {s.engine}"
    rows = {
        "schedule": s.schedule,
        "ranks": str(s.ranks),
        "micro-batches": str(s.microbatches),
        "operations": f"{_operations(s)}, in the order {order}",
        "time": times(s),
        **({"bound": words} if (words := any_memory(s)) else {}),
        "bubble": bubble(s),
        **({"hidden": _hidden(s)} if any(s.hidden) else {}),
        "activations": f"{largest(s)} at most; per rank {runs(sizes(s))}",
        **({"assumed": "; ".join(s.assumed)} if s.assumed else {}),
        "weight copies": str(s.weight_copies),
        **({"evaluation": f"none: {s.no_evaluation}"} if s.no_evaluation else {}),
        "hash": s.hash,
    }
    return "\n".join(labelled(rows, width))


def _operations(s: Summary) -> str:
    """How many, and of which streams where stages are cut into parts."""
    if not s.streams:
        return str(s.operations)
    return f"{s.operations} parts on {count(len(s.streams), 'stream')} ({', '.join(s.streams)})"


def _hidden(s: Summary) -> str:
    """How much of the time on other streams than `compute` lies under computation: over all ranks,
    and rank by rank."""
    shares = [percent(one.share) if one and one.share is not None else "–" for one in s.hidden]
    all_ranks = hidden_share(s)
    assert all_ranks is not None
    what = ", ".join(s.streams[1:])
    each = runs(tuple(shares))
    return f"{percent(all_ranks)} of {what} lies under {s.streams[0]}; per rank {each}"


def hidden_share(s: Summary) -> float | None:
    """The part of all ranks' time on other streams than `compute` that lies under computation;
    None where there is no such time."""
    known = [one for one in s.hidden if one]
    time = sum((Fraction(one.time) for one in known), Fraction(0))
    hidden = sum((Fraction(one.hidden) for one in known), Fraction(0))
    return float(hidden / time) if time else None


def bubble(s: Summary) -> str:
    """The part of the time that ranks are idle. Where the span was to be short also that of the
    span, which papers on such orders quote."""
    if s.minimize == "span":
        return f"{percent(s.span_bubble)} of the span, {percent(s.bubble)} of the makespan"
    return percent(s.bubble)


def largest(s: Summary) -> str:
    """The most activations that a rank holds, in the units of the file; rounded up."""
    return size_in(s.sizes_in, max(s.peak_activations, key=Fraction), "up")


def sizes(s: Summary) -> tuple[str, ...]:
    """The most that each rank holds, in the units of the file."""
    return tuple(size_in(s.sizes_in, peak) for peak in s.peak_activations)


def runs(values: tuple[str, ...]) -> str:
    """`9 9 9 8` as `9 ×3, 8`."""
    groups: list[tuple[str, int]] = []
    for value in values:
        if groups and groups[-1][0] == value:
            groups[-1] = (value, groups[-1][1] + 1)
        else:
            groups.append((value, 1))
    return ", ".join(f"{value} ×{n}" if n > 1 else str(value) for value, n in groups)


def percent(part: float) -> str:
    """A part of 1 as `4.8 %`; of less than is seen so, that it is more than nothing, and of more,
    that it is not all."""
    if 1 - LEAST <= part < 1:
        return "> 99.9 %"
    return "< 0.1 %" if 0 < part < LEAST else f"{100 * part:.1f} %"
