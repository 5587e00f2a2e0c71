"""Copies of a pipeline (`replicates`): which micro-batches each takes, and whether they are like
their original."""

from stretto.compiler.diagnostics.diagnostic import Label
from stretto.compiler.evaluation.declared import Declarations, PipelineDecl
from stretto.compiler.evaluation.reports import Reports, diagnosis


def first_microbatches(declared: Declarations, reports: Reports) -> list[int]:
    """For every pipeline the index of its first micro-batch among those of all its copies. Reports
    copies whose micro-batches do not add up to those of the step."""
    firsts = [0] * len(declared.pipelines)
    copies_of: dict[int, list[PipelineDecl]] = {}
    for new in declared.pipelines:
        if new.original is not None:
            copies_of.setdefault(new.original.value.index, []).append(new)
    for original in declared.pipelines:
        copies = copies_of.get(original.value.index, [])
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


def matches_original(new: PipelineDecl, reports: Reports) -> bool:
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
