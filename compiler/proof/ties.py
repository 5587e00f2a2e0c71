"""Whether the ties of a Spec can be what they say: one parameter each, wherever it stands. That the
model has these, and no others, no Program can show: it is for the runtime, which has seen it."""

from collections.abc import Iterator

from stretto.compiler.diagnostics.diagnostic import Diagnostic
from stretto.compiler.problem.spec import Spec, Tie, TiedPlace


def ties(spec: Spec) -> Iterator[Diagnostic]:
    """What is wrong: a place that is in two ties or twice in one; a holder whose places are not on
    one rank; a copy of a tied parameter that is not tied with it, which would miss a part of its
    gradient."""
    seen: set[TiedPlace] = set()
    names: set[str] = set()
    for tie in spec.ties:
        if not tie.name or tie.name in names:
            yield _wrong(tie, "another tie has this name, or it has none")
        names.add(tie.name)
        if len(tie.places) < 2 or not all(tie.holders):
            yield _wrong(tie, "it does not stand in several places")
        for place in tie.places:
            if place in seen:
                yield _wrong(tie, f"{place_words(spec, place)} is tied twice")
            seen.add(place)
        for holder in tie.holders:
            ranks = {spec.pipelines[p].stages[s].rank for p, s, _ in holder}
            if len(ranks) > 1:
                where = " and ".join(place_words(spec, place) for place in holder)
                yield _wrong(tie, f"{where} are not on one rank")
        yield from _copies(spec, tie)


def _copies(spec: Spec, tie: Tie) -> Iterator[Diagnostic]:
    """Copies of a stage have its parameters, and so its ties."""
    there = set(tie.places)
    for place in tie.places:
        own = spec.pipelines[place.pipeline].replicates
        own = place.pipeline if own < 0 else own
        for q, pipeline in enumerate(spec.pipelines):
            copy = place._replace(pipeline=q)
            if own in (q, pipeline.replicates) and copy not in there:
                yield _wrong(tie, f"{place_words(spec, copy)}, a copy, is not tied with it")


def _wrong(tie: Tie, why: str) -> Diagnostic:
    return Diagnostic("wrong-sum", f"the tie `{tie.name}`: {why}")


def place_words(spec: Spec, place: TiedPlace) -> str:
    """`main[0].embedding.weight`."""
    return f"{spec.pipelines[place.pipeline].name}[{place.stage}].{place.name}"
