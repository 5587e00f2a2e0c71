"""What pipelines feed: which stage of another pipeline gets their output. Reports pipelines that do
not fit each other."""

from itertools import pairwise

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label
from stretto.compiler.diagnostics.suggest import nearest
from stretto.compiler.evaluation.declared import PipelineDecl
from stretto.compiler.evaluation.expressions.values import show, whole
from stretto.compiler.evaluation.reports import (
    Reports,
    diagnosis,
)
from stretto.compiler.evaluation.resolved import ResolvedPipeline
from stretto.compiler.language import syntax as s
from stretto.compiler.problem.spec import Feed

MOST_TOLD = 8
"""Pipelines of a ring that are told by name."""


def feeds_of(
    new: PipelineDecl, all_: dict[str, PipelineDecl], reports: Reports
) -> tuple[Feed, ...]:
    """What a pipeline feeds; feeds that cannot be are reported and left out."""
    found = []
    for statement, code in new.feeds:
        name = statement.pipeline
        if reports.has_told(name.text):
            continue
        other = all_.get(name.text)
        if other is None:
            near = nearest(name.text, all_) if reports.suggests else None
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
    """Whether the pipeline may feed this stage of the other; reports why not."""
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


def check_no_ring(pipelines: list[ResolvedPipeline], reports: Reports) -> None:
    """Reports pipelines that feed each other in a ring: each would wait for the other."""
    by_index = {p.index: p for p in pipelines}
    feeds = {p.index: [f.pipeline for f in p.feeds] for p in pipelines}
    done: set[int] = set()
    for p in pipelines:
        path: dict[int, None] = {}
        rest = [iter([p.index])]
        while rest:
            at = next(rest[-1], None)
            if at is None:
                rest.pop()
                if path:
                    done.add(path.popitem()[0])
            elif at in path:
                way = [*path]
                reports.add(_ring([by_index[i] for i in [*way[way.index(at) :], at]]))
                return
            elif at not in done:
                path[at] = None
                rest.append(iter(feeds.get(at, [])))


def _ring(ring: list[ResolvedPipeline]) -> Diagnostic:
    """Pipelines of which each feeds the next, and the last is the first. Of many the first and the
    last are told."""
    names = [f"`{p.name}`" for p in ring]
    hops = [*pairwise(ring)]
    if len(ring) > MOST_TOLD:
        names[MOST_TOLD - 2 : -2] = [f"… {len(ring) - MOST_TOLD} more …"]
        hops = [*hops[: MOST_TOLD - 3], *hops[-2:]]
    spans = [
        next(x.span for x, _ in a.declaration.feeds if x.pipeline.text == b.name) for a, b in hops
    ]
    return diagnosis("ring", f"{' feeds '.join(names)}: each would wait for the other", *spans)
