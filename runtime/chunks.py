"""How a batch is cut into micro-batches. In come values with what the user says of each (torch's
`TensorChunkSpec(dim)` or `_Replicate`, in the value's structure or for all of it); out come the
lengths of the pieces, once, for everything that a model is given, and the pieces. By default
tensors are cut along dimension 0 and everything else is repeated, as by torch's schedules."""

import sys
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stretto.runtime.containers import MicrobatchList, items_of, rebuilt
from stretto.runtime.errors import PipelineError

NO_DATA = (type, str, bytes, int, float, FunctionType, MethodType, ModuleType, torch.nn.Module)
MOST_LOOKED_AT = 2000
REPLICATED = None
"""In the place of a dimension: every micro-batch is given the whole value."""


class BatchPart(NamedTuple):
    """One of the things that a step is given: how messages call it, the value, and its chunk spec;
    `batch`: what it is a part of, if something in that must be cut."""

    label: str
    value: Any
    spec: Any = None
    batch: str = ""


class Leaf(NamedTuple):
    """A value that is cut or repeated as one: a tensor, a `MicrobatchList`, or what holds nothing;
    `dim` is the dimension it is cut along, or `REPLICATED`."""

    label: str
    value: Any
    dim: int | None


class Cut(NamedTuple):
    """Into what everything is cut: the `number` of micro-batches, and the `lengths` of the pieces
    along the dimension that is cut; None where nothing is cut. `label` is what has them."""

    number: int
    lengths: tuple[int, ...] | None
    label: str = ""

    def pieces(self, part: BatchPart) -> list[Any]:
        """The part's value for each micro-batch."""
        return _pieces(self, part.value, part.spec, part.label)


def agreed_cut(parts: Sequence[BatchPart], count: int, ragged: bool) -> Cut:
    """How everything that a model is given is cut into `count` micro-batches: into equal lengths,
    or if `ragged` into those of `torch.tensor_split`; where there is a `MicrobatchList`, as that.

    Raises `PipelineError`, naming the two by their labels, where lengths or numbers differ, where
    they do not divide, where a chunk spec does not fit, and where a tensor cannot be cut.
    """
    leaves = [(part, leaf) for part in parts for leaf in _leaves(part.value, part.spec, part.label)]
    given = [_list_of(leaf, count) for _, leaf in leaves if isinstance(leaf.value, MicrobatchList)]
    rows = [
        (leaf.label, _length(leaf))
        for _, leaf in leaves
        if leaf.dim is not REPLICATED and not isinstance(leaf.value, MicrobatchList)
    ]
    for batch in {part.batch: None for part in parts if part.batch}:
        if not any(_says_enough(leaf, part) for part, leaf in leaves if part.batch == batch):
            raise PipelineError(f"{batch} holds no tensor that can be cut")
    lists = [(label, lengths) for label, lengths in given if lengths is not None]
    for (one, first), (other, second) in pairwise(lists):
        _same_lists(one, first, other, second)
    lists = [(label, lengths) for label, lengths in lists if None not in lengths]
    by_name = [list(own) for _, own in groupby(rows, lambda row: _name(row[0]))]
    for own in by_name:
        _same_rows(own)
    if not lists:
        found = [_divided(*own[0], count, ragged) for own in by_name]
        _same_rows(rows)
        return Cut(count, found[0], rows[0][0]) if found else Cut(count, None)
    _same_rows(rows)
    label, given_lengths = lists[0]
    lengths = tuple(length or 0 for length in given_lengths)
    if rows and rows[0][1] != sum(lengths):
        raise PipelineError(
            f"{rows[0][0]} has {rows[0][1]} rows, and {label} is a list of micro-batches with "
            f"{sum(lengths)}: they must have as many"
        )
    return Cut(count, lengths, label)


def _divided(label: str, rows: int, count: int, ragged: bool) -> tuple[int, ...]:
    """The lengths of `torch.tensor_split`. Raises `PipelineError` where there are too few rows, and
    where they are not equal unless `ragged`."""
    below, above = rows // count * count, (rows // count + 1) * count
    if ragged and rows < count:
        raise PipelineError(f"{label} has {rows} rows, fewer than the {count} micro-batches")
    if not ragged and (rows == 0 or rows % count):
        raise PipelineError(
            f"{label} has {rows} rows, which do not divide into {count} micro-batches: give it "
            + (f"{below} or {above}" if below else str(above))
            + " (`drop_last=True` of a DataLoader leaves out a shorter last batch), give a list "
            "of micro-batches (`stretto.runtime.MicrobatchList`), or make the executor with "
            "`ragged=True`"
        )
    return split_lengths(rows, count)


def split_lengths(rows: int, count: int) -> tuple[int, ...]:
    """The lengths of the `count` pieces of `torch.tensor_split`."""
    return tuple(rows // count + (k < rows % count) for k in range(count))


def _same_rows(rows: Sequence[tuple[str, int]]) -> None:
    for (one, many), (other, others) in pairwise(rows):
        if many != others:
            hint = (
                "all need the same length along the dimension that is cut, 0 unless a chunk spec "
                "says another; `_Replicate` gives every micro-batch the whole tensor"
            )
            name = _name(one)
            if name == _name(other):
                least, most = sorted((many, others))
                raise PipelineError(
                    f"{name} has tensors with {least} and {most} rows, {one} and {other}: {hint}"
                )
            raise PipelineError(f"{one} has {many} rows and {other} {others}: {hint}")


def _name(label: str) -> str:
    """The label of the whole that it is an item of."""
    return label.partition("[")[0]


def _same_lists(
    one: str, first: Sequence[int | None], other: str, second: Sequence[int | None]
) -> None:
    for m, (a, b) in enumerate(zip(first, second, strict=True)):
        if a is not None and b is not None and a != b:
            raise PipelineError(
                f"{one} has {a} rows in micro-batch {m} and {other} {b}: they need the same; a "
                "chunk spec of `_Replicate` says of one that it does not have rows"
            )


def _says_enough(leaf: Leaf, part: BatchPart) -> bool:
    """Whether the leaf makes a batch: it is cut, or somebody said how."""
    return leaf.dim is not REPLICATED or part.spec is not None or type(leaf.value) is MicrobatchList


def _list_of(leaf: Leaf, count: int) -> tuple[str, list[int | None] | None]:
    """The lengths of the list's items along dimension `dim`; None for an item without tensors, or
    whose tensors differ."""
    given = leaf.value
    if len(given) != count:
        raise PipelineError(
            f"{leaf.label} is a list of {len(given)} micro-batches, and the plan has {count}"
        )
    if leaf.dim is REPLICATED:
        return leaf.label, None
    return leaf.label, [_item_length(item, leaf.dim) for item in given]  # pyright: ignore[reportArgumentType]


def _item_length(item: Any, dim: int) -> int | None:
    found = {t.shape[dim] for t in _all_tensors(item) if -t.dim() <= dim < t.dim()}
    return found.pop() if len(found) == 1 else None


def _all_tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if not value.is_nested:
            yield value
        return
    for _, item in items_of(value) or ():
        yield from _all_tensors(item)


# Walking values and their specs together ---------------------------------------------------------


def _leaves(value: Any, spec: Any, label: str) -> Iterator[Leaf]:
    held = None if isinstance(value, MicrobatchList) else items_of(value)
    if held is None:
        yield Leaf(label, value, _dimension(value, spec, label))
        return
    for key, item in held:
        yield from _leaves(item, _spec_of(spec, key, held, label), f"{label}[{key!r}]")


def _pieces(cut: Cut, value: Any, spec: Any, label: str) -> list[Any]:
    held = None if isinstance(value, MicrobatchList) else items_of(value)
    if held is None:
        return _leaf_pieces(cut, Leaf(label, value, _dimension(value, spec, label)))
    columns = [
        _pieces(cut, item, _spec_of(spec, key, held, label), f"{label}[{key!r}]")
        for key, item in held
    ]
    return [rebuilt(value, [column[m] for column in columns]) for m in range(cut.number)]


def _leaf_pieces(cut: Cut, leaf: Leaf) -> list[Any]:
    if isinstance(leaf.value, MicrobatchList):
        return list(leaf.value)
    if leaf.dim is REPLICATED:
        return [leaf.value] * cut.number
    assert cut.lengths is not None
    if is_block_mask(leaf.value):
        return _mask_pieces(leaf, cut)
    return list(torch.split(leaf.value, list(cut.lengths), leaf.dim))  # pyright: ignore[reportArgumentType]


def _spec_of(spec: Any, key: Any, held: Sequence[tuple[Any, Any]], label: str) -> Any:
    """The spec of one item: that of the whole, or the one at its place."""
    if spec is None or is_chunk(spec) or is_replicate(spec):
        return spec
    named = items_of(spec)
    if named is None:
        raise PipelineError(
            f"the chunk spec of {label} is a {type(spec).__name__}: give TensorChunkSpec, "
            "_Replicate, or the structure of the value with these in it"
        )
    found = dict(named)
    if found.keys() != {name for name, _ in held}:
        theirs, ours = (", ".join(map(repr, keys)) for keys in (found, [name for name, _ in held]))
        raise PipelineError(
            f"the chunk spec of {label} has {theirs or 'nothing'}, and {label} has "
            f"{ours or 'nothing'}: they need the same structure"
        )
    return found[key]


def _dimension(value: Any, spec: Any, label: str) -> int | None:
    """The dimension along which a leaf is cut. Raises `PipelineError` where it cannot be."""
    if is_replicate(spec):
        return REPLICATED
    if isinstance(value, MicrobatchList):  # whose items may have the structure of the spec
        return 0 if spec is None else int(spec.split_dim) if is_chunk(spec) else REPLICATED
    if spec is not None and not is_chunk(spec):
        raise PipelineError(
            f"the chunk spec of {label} is a {type(spec).__name__}, and {label} a "
            f"{type(value).__name__}: they need the same structure"
        )
    dim = 0 if spec is None else spec.split_dim
    if is_block_mask(value):
        return _mask_dimension(value, dim, label)
    if not isinstance(value, Tensor):
        if spec is not None:
            raise PipelineError(
                f"{label} is a {type(value).__name__}, which no TensorChunkSpec can cut"
            )
        _refuse_hidden_tensors(value, label)
        return REPLICATED
    if value.is_nested or value.layout != torch.strided:
        kind = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
        raise PipelineError(
            f"{label} is a {kind} tensor, which is not cut here: give its micro-batches as "
            "`stretto.runtime.MicrobatchList`, or the whole to each by `_Replicate`"
        )
    if spec is None and value.dim() == 0:
        return REPLICATED
    if not isinstance(dim, int) or not -value.dim() <= dim < value.dim():
        raise PipelineError(
            f"{label} has the shape {tuple(value.shape)}, and its chunk spec asks for dimension "
            f"{dim}"
        )
    return dim


def _length(leaf: Leaf) -> int:
    if is_block_mask(leaf.value):
        return int(leaf.value.kv_num_blocks.size(0))
    assert leaf.dim is not None
    return int(leaf.value.shape[leaf.dim])


def _refuse_hidden_tensors(value: Any, label: str) -> None:
    """Raises `PipelineError` for an array, or an object that holds tensors where nobody sees them:
    it would be given to every micro-batch whole."""
    if getattr(value, "shape", ()) and hasattr(value, "__array__"):
        raise PipelineError(f"{label} is a {type(value).__name__}: make it a tensor")
    if _holds_tensors(value, set()):
        raise PipelineError(
            f"{label} is a {type(value).__name__} that holds tensors, which cannot be cut: make it "
            "a dataclass or a Mapping, register it with torch.utils._pytree, give a MicrobatchList "
            "of it, or the whole to each by `_Replicate`"
        )


def _holds_tensors(value: Any, seen: set[int]) -> bool:
    """Whether there is a tensor in the value, or in an attribute of an object in it, for as far as
    a look at some thousand of them goes. Modules, functions, and what torch.distributed has are not
    data."""
    if isinstance(value, Tensor):
        return True
    if id(value) in seen or len(seen) > MOST_LOOKED_AT or isinstance(value, NO_DATA):
        return False
    if type(value).__module__.startswith("torch.distributed."):
        return False
    seen.add(id(value))
    held = items_of(value)
    inside: list[Any] = [item for _, item in held or ()]
    if isinstance(value, set | frozenset):
        inside += value
    elif held is None:
        inside += getattr(value, "__dict__", {}).values()
        inside += [getattr(value, name, None) for name in getattr(type(value), "__slots__", ())]
    return any(_holds_tensors(item, seen) for item in inside)


# What torch has for this -------------------------------------------------------------------------


def _torchs(name: str) -> Any:
    """A class of torch's; None where nobody has loaded its module, and so nobody has an object."""
    module = sys.modules.get("torch.distributed.pipelining.microbatch")
    return getattr(module, name, None)


def is_chunk(spec: Any) -> bool:
    """Whether it is torch's `TensorChunkSpec`."""
    kind = _torchs("TensorChunkSpec")
    return kind is not None and isinstance(spec, kind)


def is_replicate(spec: Any) -> bool:
    """Whether it is torch's `_Replicate`, the class or an object of it."""
    kind = _torchs("_Replicate")
    return kind is not None and (spec is kind or isinstance(spec, kind))


def is_block_mask(value: Any) -> bool:
    """Whether it is a `BlockMask` of torch's flex attention."""
    module = sys.modules.get("torch.nn.attention.flex_attention")
    return module is not None and isinstance(value, module.BlockMask)


def _mask_dimension(mask: Any, dim: Any, label: str) -> int | None:
    if dim != 0:
        raise PipelineError(f"{label} is a BlockMask, which is cut along dimension 0 alone")
    return REPLICATED if mask.kv_num_blocks.size(0) == 1 else 0


def _mask_pieces(leaf: Leaf, cut: Cut) -> list[Any]:
    from torch.distributed.pipelining import microbatch

    assert cut.lengths is not None
    split = getattr(microbatch, "_split_block_mask", None)
    if split is None or cut.lengths != split_lengths(sum(cut.lengths), cut.number):
        raise PipelineError(
            f"{leaf.label} is a BlockMask, which torch cuts into equal pieces or not at all: give "
            "its micro-batches as `stretto.runtime.MicrobatchList`"
        )
    return list(split(leaf.value, cut.number))
