"""The numbers of operation classes. The identical operations of one stage and kind are one class,
numbered 3 · stage + kind, stages counted over all pipelines. From a forward class `x + BACK` and
`x + W` lead to its backward and its weight gradient, and likewise back.
"""

from stretto.compiler.order.kernels.jit import inlined

F, BACK, W = 0, 1, 2
"""Kinds: a forward; what computes the input gradient (I, or B where the backward is full); the
weight gradient."""


@inlined
def kind_of(x: int) -> int:
    """The kind of class x: F, BACK or W."""
    return x % 3


@inlined
def stage_of(x: int) -> int:
    """The stage of class x."""
    return x // 3


@inlined
def forward_of(stage: int) -> int:
    """The class of a stage's forwards."""
    return 3 * stage


@inlined
def backward_of(stage: int) -> int:
    """The class of a stage's backwards."""
    return 3 * stage + BACK


@inlined
def weight_of(stage: int) -> int:
    """The class of a stage's weight gradients."""
    return 3 * stage + W


@inlined
def stages_in(classes: int) -> int:
    """How many stages so many classes belong to."""
    return classes // 3


def forwards(classes: int) -> range:
    """The forward classes among the first so many classes."""
    return range(F, classes, 3)


def weights(classes: int) -> range:
    """The weight gradient classes among the first so many classes."""
    return range(W, classes, 3)
