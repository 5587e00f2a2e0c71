"""The operations that a `rule` names where stages are cut into parts: all parts of a whole, or
those of one name. Of parts that one stage runs one after the other anyway, the one that decides is
enough: the first of what comes after, the last of what goes before."""

from collections.abc import Callable

from stretto.compiler.diagnostics.diagnostic import Label
from stretto.compiler.evaluation.costs.targets import check_place
from stretto.compiler.evaluation.expressions.values import Env, show
from stretto.compiler.evaluation.indices import IndexCodes
from stretto.compiler.evaluation.reports import EvalError, eval_error
from stretto.compiler.evaluation.resolved import ResolvedPipeline
from stretto.compiler.language import syntax as s
from stretto.compiler.problem.spec import NONE, Kind, Operation, backward_kinds

OperationsCode = Callable[[Env], list[Operation]]


def parts_named(
    mention: s.Mention,
    codes: IndexCodes,
    p: ResolvedPipeline,
    split: bool,
    after: bool,
) -> OperationsCode:
    """The code that computes the parts that the mention names; `after`, if they come after others.
    A whole `B` means I and W where backwards are `split`. The code raises `EvalError` where there
    are none."""
    stage, microbatch, _, layer = codes
    assert stage is not None and microbatch is not None
    kinds = ("I", "W") if mention.kind == "B" and split else (mention.kind,)
    name = mention.part and mention.part.text

    def run(env: Env) -> list[Operation]:
        at, m = stage(env), microbatch(env)
        check_place(mention, p, at, m)
        its = None if layer is None else layer(env)
        found = []
        for kind in kinds:
            parts = [
                i
                for i, part in enumerate(p.chains[at])
                if name in (None, part.name)
                and its in (None, part.layer)
                and (kind == "F" or kind in backward_kinds(part.stream, split))
            ]
            found += [
                Operation(kind, p.index, at, m, NONE, i) for i in _deciding(parts, kind, after)
            ]
        if not found:
            raise _nothing(mention, p, at, its)
        return found

    return run


def _deciding(parts: list[int], kind: Kind, after: bool) -> list[int]:
    """Of parts in the order of the forward those that decide: weight gradients wait for nothing
    but their own input gradients, so all of them do."""
    if kind == "W":
        return parts
    return parts[:1] if after == (kind == "F") else parts[-1:]


def _nothing(mention: s.Mention, p: ResolvedPipeline, stage: int, layer: int | None) -> EvalError:
    what = mention.kind if mention.part is None else f"{mention.kind}.{mention.part.text}"
    of = "" if layer is None else f" of layer {show(layer)}"
    return eval_error(
        "no-such-operation",
        f"stage {stage} of `{p.name}` has no `{what}`{of}",
        Label(mention.span),
    )
