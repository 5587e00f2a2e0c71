"""What a stage is called with, and outputs of micro-batches merged. In comes what the user gives a
step for one micro-batch, or what the last stage gave for each; out come arguments, or one value for
the whole batch. How nested values are walked stands in `containers`, how a batch is cut in
`chunks`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stretto.runtime.chunks import is_chunk, is_replicate
from stretto.runtime.containers import MicrobatchList, items_of, rebuilt
from stretto.runtime.containers import mapped as mapped
from stretto.runtime.containers import tensors as tensors
from stretto.runtime.errors import PipelineError, words_of


class Arguments(NamedTuple):
    """A stage's arguments, by position and by keyword. As x it says both; an x that is a tuple or
    list is the arguments by position, a `Mapping` those by keyword."""

    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = {}


def arguments(x: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """How a first stage is called with a micro-batch: a tuple or list is its positional arguments,
    a `Mapping` its keywords, `Arguments` both, anything else (also a named tuple or a dataclass)
    its one argument."""
    if type(x) is Tensor:
        return (x,), {}
    if isinstance(x, Arguments):
        return tuple(x.args), dict(x.kwargs)
    if isinstance(x, Mapping):
        return (), dict(x)
    if isinstance(x, tuple | list) and not hasattr(x, "_fields"):
        return tuple(x), {}
    return (x,), {}


def by_argument(batch: MicrobatchList, label: str) -> Any:
    """The same as one `Mapping` or `Arguments` of lists, where the micro-batches are such: their
    keywords are then those of the step. Raises `PipelineError` where the micro-batches are called
    with unlike keywords."""
    if not any(isinstance(one, Mapping | Arguments) for one in batch):
        return batch
    calls = [arguments(one) for one in batch]
    names = dict.fromkeys(name for _, kwargs in calls for name in kwargs)
    for name in names:
        having = [name in kwargs for _, kwargs in calls]
        if not all(having):
            raise PipelineError(
                f"micro-batch {having.index(True)} of {label} has the keyword `{name}`, and "
                f"micro-batch {having.index(False)} does not: give it to all, or as None"
            )
    columns = {name: MicrobatchList([kwargs[name] for _, kwargs in calls]) for name in names}
    if not any(args for args, _ in calls):
        return columns
    return Arguments(MicrobatchList([args for args, _ in calls]), columns)


def signature(value: Any) -> str:
    """The structure of the value with each tensor's shape and dtype, as text: values with equal
    signatures need no new agreement between ranks."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Arguments):  # as the user has probably written it
        if not value.kwargs:
            return signature(value.args[0] if len(value.args) == 1 else value.args)
        return signature({**dict(enumerate(value.args)), **value.kwargs})
    held = items_of(value)
    if held is None:
        plain = value is None or isinstance(value, bool | int | float | str | bytes)
        return repr(value) if plain else type(value).__name__
    inside = ", ".join(f"{key!r}: {signature(item)}" for key, item in held)
    if type(value) is dict:
        return f"{{{inside}}}"
    named = ", ".join(signature(item) for _, item in held)
    if type(value) is tuple:
        return f"({named}{',' * (len(held) == 1)})"
    return f"[{named}]" if type(value) is list else f"{type(value).__name__}({inside})"


def merged(outputs: Sequence[Any], spec: Any = None, label: str = "the output") -> Any:
    """The outputs of all micro-batches as one of the same type. Tensors are concatenated along
    dimension 0, or as `spec` says (torch's `output_merge_spec`: a `TensorChunkSpec`, a
    `_CustomReducer`, anything else for what must be equal); those without dimensions become a
    vector. What is no tensor stays where all micro-batches agree. Where they do not, and where
    tensors do not fit, there is a `MicrobatchList` of it.

    Raises `PipelineError` where the spec does not fit; the step is done by then.
    """
    first = outputs[0]
    if spec is not None and not is_chunk(spec):
        if hasattr(spec, "reduce_fn"):
            total = spec.init_value
            for output in outputs:
                total = spec.reduce_fn(total, output)
            return total
        if is_replicate(spec) or items_of(spec) is None:
            return _equal(outputs, label)
    held = items_of(first)
    if held is not None and all(_alike(first, other) for other in outputs[1:]):
        columns = zip(*([item for _, item in items_of(o) or ()] for o in outputs), strict=True)
        return rebuilt(
            first,
            [
                merged(column, _spec_of(spec, key, held, label), f"{label}[{key!r}]")
                for (key, _), column in zip(held, columns, strict=True)
            ],
        )
    plain = spec is None or is_chunk(spec)
    if held is None and plain and all(isinstance(output, Tensor) for output in outputs):
        return _joined(outputs, spec, label)
    if is_chunk(spec):
        raise PipelineError(f"{label} is a {type(first).__name__}, and its merge spec says {spec}")
    if spec is not None:
        raise PipelineError(f"the merge spec of {label} has another structure than it")
    return first if all(_is_same(first, other) for other in outputs) else MicrobatchList(outputs)


def _joined(outputs: Sequence[Tensor], spec: Any, label: str) -> Any:
    if spec is None and all(output.dim() == 0 for output in outputs):
        return torch.stack(tuple(outputs))
    try:
        return torch.cat(tuple(outputs), 0 if spec is None else spec.split_dim)
    except (RuntimeError, IndexError) as error:
        if spec is None:
            return MicrobatchList(outputs)
        raise PipelineError(
            f"{label} cannot be merged as its spec says: {words_of(error)}"
        ) from error


def _alike(one: Any, other: Any) -> bool:
    """Whether two containers have the same items to be merged."""
    first, second = items_of(one), items_of(other)
    if type(one) is not type(other) or first is None or second is None:
        return False
    return [key for key, _ in first] == [key for key, _ in second]


def _equal(outputs: Sequence[Any], label: str) -> Any:
    if all(_is_same(outputs[0], other) for other in outputs[1:]):
        return outputs[0]
    raise PipelineError(
        f"{label} differs between micro-batches, and its merge spec says it does not"
    )


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
    first, second = items_of(one), items_of(other)
    if first is not None and second is not None:
        pairs = zip(first, second, strict=False)
        return _alike(one, other) and all(_is_same(a, b) for (_, a), (_, b) in pairs)
    return type(one) is type(other) and bool(one == other)


def _spec_of(spec: Any, key: Any, held: Sequence[tuple[Any, Any]], label: str) -> Any:
    named = None if spec is None or is_chunk(spec) else items_of(spec)
    if named is None:
        return spec
    found = dict(named)
    if found.keys() != {name for name, _ in held}:
        raise PipelineError(f"the merge spec of {label} has another structure than it")
    return found[key]
