"""The indices of an operation that a file mentions, `F main[0, 3, slice 2]`, compiled to code."""

from collections.abc import Callable
from typing import NamedTuple

from stretto.compiler.evaluation.expressions.compile import compile_whole
from stretto.compiler.evaluation.expressions.scope import Scope
from stretto.compiler.evaluation.expressions.values import Env
from stretto.compiler.language import syntax as s

IndexCode = Callable[[Env], int]
"""Computes one index. Raises `EvalError` where it is no whole number."""


class IndexCodes(NamedTuple):
    """The code of each index, None where it was left out."""

    stage: IndexCode | None
    microbatch: IndexCode | None
    slice: IndexCode | None
    layer: IndexCode | None


def compile_indices(mention: s.Mention, scope: Scope) -> IndexCodes:
    """The code of the indices that are written; mistakes in them go to the reports of `scope`."""
    written = (
        (mention.stage, "a stage"),
        (mention.microbatch, "a micro-batch"),
        (mention.slice, "a slice"),
        (mention.layer, "a layer"),
    )
    return IndexCodes(
        *(None if e is None else compile_whole(e, scope, what) for e, what in written)
    )
