"""A Spec's computations alone, without what runs beside them once per stage (`reduce gradients`,
`unshard weights`): what a search orders, since no order of the computations waits for the former,
and the latter are over before most of it."""

from msgspec.structs import replace

from stretto.compiler.problem.spec import Spec


def has_collectives(spec: Spec) -> bool:
    """Whether anything runs beside the computations."""
    return bool(spec.reduce_gradients or spec.unshard_weights)


def computations(spec: Spec) -> Spec:
    """The Spec without it."""
    return replace(spec, reduce_gradients=(), unshard_weights=()) if has_collectives(spec) else spec
