"""Pipelines, evaluated when all of the file is known: on which ranks their stages are, which
micro-batches each copy takes, what they feed."""

from itertools import pairwise
from typing import Any

from msgspec import Struct

from stretto.compiler.diagnostics.diagnostic import Label
from stretto.compiler.diagnostics.suggest import nearest
from stretto.compiler.evaluation.declared import Declarations, PipelineDecl
from stretto.compiler.evaluation.expressions.values import show, whole
from stretto.compiler.evaluation.reports import (
    AlreadyReported,
    EvalError,
    Reports,
    diagnosis,
    eval_error,
)
from stretto.compiler.language import syntax as s
from stretto.compiler.problem.spec import NONE, Feed


class ResolvedPipeline(Struct, frozen=True):
    """A pipeline with everything known but its costs."""

    declaration: PipelineDecl
    ranks: tuple[int, ...]  # of each stage
    microbatches: int
    first: int
    replicates: int
    model: str
    feeds: tuple[Feed, ...]

    @property
    def index(self) -> int:
        """Its index in `Spec.pipelines`."""
        return self.declaration.value.index

    @property
    def name(self) -> str:
        """Its name."""
        return self.declaration.value.name

    @property
    def forward_only(self) -> bool:
        """Whether it has no backward."""
        return self.declaration.forward_only


def resolve_pipelines(
    declared: Declarations, reports: Reports
) -> tuple[ResolvedPipeline, ...] | None:
    """All pipelines with their stages placed, or None where something is wrong with one."""
    before = reports.count
    total, ranks = declared.microbatches, declared.ranks
    firsts = _first_microbatches(declared, reports)
    pipelines = []
    for new in declared.pipelines:
        alike = _against_original(new, reports)
        where = _place(new, ranks, reports) if alike else None
        feeds = _feeds(new, declared.pipelines, reports)
        model = (new.original or new).model
        microbatches = new.value.microbatches
        if where is None or microbatches is None:
            continue
        if total is not None and microbatches > total:
            reports.add_for_values(
                diagnosis(
                    "out-of-range",
                    f"`{new.name.text}` has {microbatches} micro-batches, and the step only "
                    f"{total}",
                    Label(new.stated_at.get("microbatches", new.name.span)),
                    Label(declared.stated_at["microbatches"], "the step's"),
                )
            )
        pipelines.append(
            ResolvedPipeline(
                new,
                where,
                microbatches,
                firsts[new.value.index],
                NONE if new.original is None else new.original.value.index,
                model.name if model else (new.original or new).name.text,
                feeds,
            )
        )
    _no_ring(pipelines, reports)
    complete = len(pipelines) == len(declared.pipelines) and ranks is not None and total is not None
    return tuple(pipelines) if complete and reports.count == before else None


def _first_microbatches(declared: Declarations, reports: Reports) -> list[int]:
    """For every pipeline the index of its first micro-batch among those of all its copies. Reports
    copies whose micro-batches do not add up to those of the step."""
    firsts = [0] * len(declared.pipelines)
    for original in declared.pipelines:
        copies = [d for d in declared.pipelines if d.original is original]
        if original.original is not None or not copies:
            continue
        group = [original, *copies]
        first = 0
        for new in group:
            firsts[new.value.index] = first
            first += new.value.microbatches or 0
        known = all(d.value.microbatches is not None for d in group)
        if known and declared.microbatches is not None and first != declared.microbatches:
            parts = " + ".join(str(d.value.microbatches) for d in group)
            last = group[-1]
            reports.add_for_values(
                diagnosis(
                    "uneven-copies",
                    f"the copies of `{original.name.text}` have {parts} = {first} micro-batches "
                    f"together, and the step has {declared.microbatches}",
                    Label(last.stated_at.get("microbatches", last.name.span)),
                    Label(declared.stated_at["microbatches"], "the step's"),
                    help=f"every copy takes a share: `microbatches microbatches / {len(group)}`",
                )
            )
    return firsts


def _against_original(new: PipelineDecl, reports: Reports) -> bool:
    """Reports where a copy differs from its original in stages, model or `forward only`. Returns
    whether the stages are as many."""
    if new.original is None:
        return True
    old = new.original
    stages = (new.value.stages, old.value.stages)
    if None not in stages and stages[0] != stages[1]:
        reports.add_for_values(
            diagnosis(
                "unlike-copies",
                f"`{new.name.text}` has {stages[0]} stages, and `{old.name.text}`, which it "
                f"replicates, has {stages[1]}",
                Label(new.stated_at["stages"]),
                Label(old.stated_at.get("stages", old.name.span), "the original"),
                help="leave `stages` out: a copy has the stages of its original",
            )
        )
    if new.model is not None and new.model.name != (old.model.name if old.model else None):
        reports.add(
            diagnosis(
                "unlike-copies",
                f"`{new.name.text}` is a copy of `{old.name.text}` and cannot be another model",
                Label(new.model.span),
                Label(old.model.span if old.model else old.name.span, "the original"),
                help="leave `model` out here",
            )
        )
    if new.forward_only != old.forward_only:
        reports.add(
            diagnosis(
                "unlike-copies",
                f"of `{new.name.text}` and its original `{old.name.text}` only one is "
                "`forward only`",
                Label(new.stated_at.get("forward only", new.name.span)),
                Label(old.stated_at.get("forward only", old.name.span), "the original"),
            )
        )
    return None in stages or stages[0] == stages[1]


def _place(new: PipelineDecl, ranks: int | None, reports: Reports) -> tuple[int, ...] | None:
    """The rank of every stage."""
    stages = new.value.stages
    if stages is None or ranks is None:
        return None
    if new.place is None:
        return tuple(s % ranks for s in range(stages))
    place = new.place
    env: list[Any] = [None] * place.size
    env[place.stages] = stages
    where = []
    for stage in range(stages):
        env[place.stage] = stage
        try:
            rank = place.code(env)
            if not 0 <= rank < ranks:
                message = f"stage {stage} of `{new.name.text}` would stand on rank {show(rank)}"
                round_ = f"`place {place.name} -> {place.plain or '(…)'} % ranks`"
                raise eval_error(
                    "out-of-range",
                    message,
                    place.span,
                    notes=(f"there are ranks 0 to {ranks - 1}",),
                    help=f"{round_} goes round the ranks",
                )
            where.append(rank)
        except EvalError as error:
            reports.add_repeated(error.diagnostic, f"{place.name} = {stage}")
            if len(where) < stage - 100:
                break
        except AlreadyReported:
            return None
    return tuple(where) if len(where) == stages else None


def _feeds(new: PipelineDecl, all_: list[PipelineDecl], reports: Reports) -> tuple[Feed, ...]:
    found = []
    for statement, code in new.feeds:
        name = statement.pipeline
        other = next((d for d in all_ if d.name.text == name.text), None)
        if other is None:
            near = nearest(name.text, [d.name.text for d in all_])
            reports.add_once(
                name.text,
                diagnosis(
                    "unknown-name",
                    f"`{name.text}` is not a pipeline",
                    name.span,
                    help=f"did you mean `{near}`?" if near else None,
                ),
            )
            continue
        stage = reports.attempt(lambda code=code, at=statement: whole(  # type: ignore[misc]
            code([]), at.stage.span, "a stage"
        ))  # fmt: skip
        if stage is not None and _may_feed(new, other, stage, statement, reports):
            found.append(Feed(other.value.index, stage))
    return tuple(found)


def _may_feed(
    new: PipelineDecl, other: PipelineDecl, stage: int, statement: s.Feeds, reports: Reports
) -> bool:
    mine, theirs = new.value, other.value
    if theirs.stages is None or theirs.microbatches is None or mine.microbatches is None:
        return False
    if not 0 <= stage < theirs.stages:
        message = (
            f"`{theirs.name}` has no stage {show(stage)}: it has stages 0 to {theirs.stages - 1}"
        )
        reports.add_for_values(diagnosis("out-of-range", message, statement.stage.span))
        return False
    if mine.microbatches != theirs.microbatches:
        message = (
            f"`{mine.name}` has {mine.microbatches} micro-batches and feeds `{theirs.name}`, "
            f"which has {theirs.microbatches}"
        )
        reports.add_for_values(
            diagnosis(
                "uneven-feed",
                message,
                Label(statement.span),
                Label(
                    other.stated_at.get("microbatches", other.name.span),
                    "both need as many",
                ),
            )
        )
        return False
    if other.forward_only and not new.forward_only:
        reports.add(
            diagnosis(
                "uneven-feed",
                f"`{theirs.name}` is `forward only`, so `{mine.name}` would get no gradients back",
                Label(statement.span),
                Label(other.stated_at["forward only"], "no backward from here on"),
                help=f"say `forward only` in `{mine.name}` too",
            )
        )
        return False
    return True


def _no_ring(pipelines: list[ResolvedPipeline], reports: Reports) -> None:
    """Reports pipelines that feed each other in a ring: each would wait for the other."""
    by_index = {p.index: p for p in pipelines}
    feeds = {p.index: [f.pipeline for f in p.feeds] for p in pipelines}
    done: set[int] = set()
    for p in pipelines:
        path: list[int] = []
        rest = [iter([p.index])]
        while rest:
            at = next(rest[-1], None)
            if at is None:
                rest.pop()
                if path:
                    done.add(path.pop())
            elif at in path:
                ring = [*path[path.index(at) :], at]
                names = " feeds ".join(f"`{by_index[i].name}`" for i in ring)
                spans = [
                    next(
                        x.span
                        for x, _ in by_index[a].declaration.feeds
                        if x.pipeline.text == by_index[b].name
                    )
                    for a, b in pairwise(ring)
                ]
                message = f"{names}: each would wait for the other"
                reports.add(diagnosis("ring", message, *spans))
                return
            elif at not in done:
                path.append(at)
                rest.append(iter(feeds.get(at, [])))
