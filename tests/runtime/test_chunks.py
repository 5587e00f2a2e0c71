"""How batches are cut and outputs merged, against torch's own functions, and by hand for what these
do not take."""

from collections import OrderedDict, UserDict, deque, namedtuple
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.pipelining.microbatch import (
    TensorChunkSpec,
    _CustomReducer,
    _Replicate,
    merge_chunks,
    split_args_kwargs_into_chunks,
)
from torch.utils import _pytree

from stretto.runtime import MicrobatchList, PipelineError
from stretto.runtime.batch import merged, signature
from stretto.runtime.chunks import BatchPart, agreed_cut
from stretto.runtime.containers import rebuilt, tensors

Pair = namedtuple("Pair", ("left", "right"))


def same(one: Any, other: Any) -> bool:
    """Equal in types, structure, bits, and strides."""
    if isinstance(one, Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype and one.shape == other.shape
    if type(one) is not type(other):
        return False
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, tuple | list | deque):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def tensor(random: Random, rows: int, dim: int) -> Tensor:
    shape = [random.randint(0, 3) for _ in range(random.randint(dim, 2))]
    shape.insert(dim, rows)
    kinds = (torch.float32, torch.int64, torch.bool, torch.bfloat16)
    return torch.randint(0, 100, shape).to(random.choice(kinds))


def value(random: Random, rows: int, depth: int) -> tuple[Any, Any]:
    """A value of nested containers and its chunk spec, in the value's structure."""
    kind = random.choice(("list", "tuple", "dict", "ordered", "pair") if depth else ("leaf",))
    if kind == "leaf" or random.random() < 0.3:
        if random.random() < 0.2:
            plain: Any = random.choice((3, 2.5, "words", None, True, torch.float32))
            return plain, _Replicate()
        dim = random.randint(0, 1)
        made = tensor(random, rows, dim)
        if random.random() < 0.2:
            return made, random.choice((_Replicate, _Replicate()))
        return made, TensorChunkSpec(random.choice((dim, dim - made.dim())))
    if kind == "pair":
        (a, c), (b, d) = (value(random, rows, depth - 1) for _ in range(2))
        return Pair(a, b), Pair(c, d)
    found = [value(random, rows, depth - 1) for _ in range(random.randint(0, 3))]
    items, specs = [item for item, _ in found], [spec for _, spec in found]
    names = random.sample("abcdef", len(found))
    make: dict[str, Callable[[list[Any]], Any]] = {
        "list": list,
        "tuple": tuple,
        "dict": lambda those: dict(zip(names, those, strict=True)),
        "ordered": lambda those: OrderedDict(zip(names, those, strict=True)),
    }
    return make[kind](items), make[kind](specs)


def beside(random: Random, rows: int, depth: int) -> tuple[Any, Any]:
    """Such a value beside a tensor: torch asks for one."""
    made, spec = value(random, rows, depth)
    return (made, torch.arange(rows)), (spec, TensorChunkSpec(0))


@pytest.mark.parametrize("seed", range(40))
def test_random_structures_are_cut_and_merged_as_by_torch(seed: int) -> None:
    random = Random(seed)
    torch.manual_seed(seed)
    for _ in range(10):
        count = random.randint(1, 4)
        ragged = random.random() < 0.4
        rows = random.randint(count, 9) if ragged else count * random.randint(1, 3)
        found = [beside(random, rows, 2) for _ in range(random.randint(1, 3))]
        args, specs = zip(*found, strict=True)
        kwargs, kwargs_specs = dict[str, Any](), dict[str, Any]()
        for name in random.sample(("mask", "positions", "flag"), random.randint(0, 2)):
            kwargs[name], kwargs_specs[name] = beside(random, rows, 1)
        theirs = split_args_kwargs_into_chunks(args, kwargs, count, specs, kwargs_specs)
        parts = [BatchPart("x", args, specs)]
        parts += [BatchPart(f"`{k}`", kwargs[k], kwargs_specs[k]) for k in kwargs]
        cut = agreed_cut(parts, count, ragged)
        ours = [cut.pieces(part) for part in parts]
        for m in range(count):
            assert same(ours[0][m], theirs[0][m])
            named = {k: column[m] for k, column in zip(kwargs, ours[1:], strict=True)}
            assert same(named, theirs[1][m])
        assert same(merged(ours[0], merge_spec(specs)), merge_chunks(ours[0], merge_spec(specs)))


def merge_spec(specs: Any) -> Any:
    """What is repeated must be equal, which torch can ask of plain values alone: of them it takes
    the first."""
    first = _CustomReducer(None, lambda total, piece: piece if total is None else total)
    return _pytree.tree_map(lambda s: s if isinstance(s, TensorChunkSpec) else first, specs)


def test_by_default_tensors_are_cut_along_dimension_0_and_the_rest_is_repeated() -> None:
    given = ({"a": torch.arange(6), "b": [torch.ones(6, 2, dtype=torch.bool), "word", None]}, (), 4)
    theirs, _ = split_args_kwargs_into_chunks(given, {}, 3)
    cut = agreed_cut([BatchPart("x", given)], 3, False)
    assert all(map(same, cut.pieces(BatchPart("x", given)), theirs))
    number = torch.tensor(2.5)
    (piece, *_) = cut.pieces(BatchPart("x", {"at": number, "rows": torch.zeros(6)}))
    assert piece["at"] is number and piece["rows"].shape == (2,)


# Types of containers -----------------------------------------------------------------------------


class Encoding(UserDict[str, Any]):
    """As HuggingFace's `BatchEncoding`: a mapping with more than its items."""

    def __init__(self, data: dict[str, Any] | None = None, encodings: Any = None):
        super().__init__(data)
        self.encodings = encodings

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("data", {}):
            return self.data[name]
        raise AttributeError(name)


@dataclass
class Output(OrderedDict[str, Any]):
    """As HuggingFace's `ModelOutput`: fields that are also items, without those that are None."""

    logits: Any = None
    hidden: Any = None

    def __post_init__(self) -> None:
        for name in ("logits", "hidden"):
            if getattr(self, name) is not None:
                OrderedDict.__setitem__(self, name, getattr(self, name))

    def __setitem__(self, key: str, item: Any) -> None:
        super().__setitem__(key, item)
        super().__setattr__(key, item)


@dataclass(frozen=True)
class Frozen:
    ids: Tensor
    words: str = "words"
    rows: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", len(self.ids))


class Lazy(Mapping[str, Any]):
    """A mapping that cannot be written to."""

    def __init__(self, given: Mapping[str, Any]):
        self.given = dict(given)

    def __getitem__(self, key: str) -> Any:
        return self.given[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.given)

    def __len__(self) -> int:
        return len(self.given)


class Registered:
    def __init__(self, ids: Tensor):
        self.ids = ids


_pytree.register_pytree_node(Registered, lambda r: ([r.ids], None), lambda ids, _: Registered(*ids))

IDS = torch.arange(12).view(6, 2)
CONTAINERS: list[tuple[Any, Callable[[Any], Tensor]]] = [
    (UserDict({"ids": IDS}), lambda v: v["ids"]),
    (Encoding({"ids": IDS}, "more"), lambda v: v.ids),
    (Output(hidden=IDS), lambda v: v.hidden),
    (Output(hidden=(IDS, None)), lambda v: v["hidden"][0]),
    (Frozen(IDS), lambda v: v.ids),
    (Lazy({"ids": IDS}), lambda v: v["ids"]),
    (Registered(IDS), lambda v: v.ids),
    (Pair(IDS, None), lambda v: v.left),
    (deque([IDS], maxlen=2), lambda v: v[0]),
    (torch.return_types.max((IDS, IDS)), lambda v: v.indices),
    (
        [Frozen(IDS), {"deep": Pair([Encoding({"ids": IDS})], ())}],
        lambda v: v[1]["deep"].left[0].ids,
    ),
]


@pytest.mark.parametrize(("given", "ids"), CONTAINERS, ids=lambda v: type(v).__name__)
def test_containers_are_cut_into_their_own_type_and_merged_again(
    given: Any, ids: Callable[[Any], Tensor]
) -> None:
    part = BatchPart("x", given)
    pieces = agreed_cut([part], 3, False).pieces(part)
    for m, piece in enumerate(pieces):
        assert type(piece) is type(given) and torch.equal(ids(piece), IDS[2 * m : 2 * m + 2])
    whole = merged(pieces)
    assert type(whole) is type(given) and torch.equal(ids(whole), IDS)
    assert torch.equal(ids(given), IDS)
    if isinstance(given, Encoding):
        assert pieces[0].encodings == "more"
    if isinstance(given, Frozen):
        assert [piece.rows for piece in pieces] == [2, 2, 2] and whole.rows == 6


def test_every_microbatch_has_containers_of_its_own() -> None:
    """A module that adds to a list that it is given does not add to its neighbour's."""
    given = {"x": torch.zeros(4, 1), "cache": list[Tensor](), "deep": {"more": list[int]()}}
    one, two = agreed_cut([BatchPart("x", given)], 2, False).pieces(BatchPart("x", given))
    one["cache"].append(1)
    one["deep"]["more"].append(1)
    assert not two["cache"] and not two["deep"]["more"] and not given["cache"]


# Refused by name ---------------------------------------------------------------------------------


@dataclass
class Odd:
    """Cannot be made from its fields."""

    ids: Tensor

    def __init__(self, text: str):
        self.ids = torch.zeros(len(text), 1)


class Hidden:
    def __init__(self) -> None:
        self.ids = torch.zeros(4, 1)


class Cache:
    """Deeper."""

    def __init__(self) -> None:
        self.layers = [{"keys": Hidden()}]


X = torch.zeros(4, 3)
REFUSED: list[tuple[Any, Any, str]] = [
    (X.to_sparse(), None, "x is a sparse_coo tensor, which is not cut here"),
    (X.to_sparse_csr(), None, "x is a sparse_csr tensor, which is not cut here"),
    (torch.nested.nested_tensor([X, X]), None, "x is a nested tensor, which is not cut here"),
    ({"a": X, "b": Hidden()}, None, "x['b'] is a Hidden that holds tensors, which cannot be cut"),
    ({"a": X, "b": Cache()}, None, "x['b'] is a Cache that holds tensors, which cannot be cut"),
    ({"a": X, "b": {X}}, None, "x['b'] is a set that holds tensors, which cannot be cut"),
    (X.numpy(), None, "x is a ndarray: make it a tensor"),
    (Odd("abcd"), None, "a Odd cannot be built again from parts of what it holds"),
    (X, TensorChunkSpec(2), "has the shape (4, 3), and its chunk spec asks for dimension 2"),
    (torch.tensor(1.0), TensorChunkSpec(0), "x has the shape (), and its chunk spec asks for"),
    ("word", TensorChunkSpec(0), "x is a str, which no TensorChunkSpec can cut"),
    (X, "0", "the chunk spec of x is a str, and x a Tensor: they need the same structure"),
    (X, (TensorChunkSpec(0),), "the chunk spec of x is a tuple, and x a Tensor"),
    ((X, X), (TensorChunkSpec(0),), "the chunk spec of x has 0, and x has 0, 1"),
    ({"a": X}, {"b": _Replicate}, "the chunk spec of x has 'b', and x has 'a'"),
    ({"a": X}, 3, "the chunk spec of x is a int: give TensorChunkSpec"),
    ((X, X[:2]), None, "x has tensors with 2 and 4 rows, x[0] and x[1]"),
    ((X, X), (TensorChunkSpec(0), TensorChunkSpec(1)), "x has tensors with 3 and 4 rows"),
    (X[:3], None, "x has 3 rows, which do not divide into 2 micro-batches: give it 2 or 4"),
    (MicrobatchList([X]), None, "x is a list of 1 micro-batches, and the plan has 2"),
    ((X, MicrobatchList([X[:1], X])), None, "x[0] has 4 rows, and x[1] is a list of micro-batches"),
]


@pytest.mark.parametrize(("given", "spec", "words"), REFUSED, ids=lambda v: type(v).__name__)
def test_what_cannot_be_cut_is_refused_by_name(given: Any, spec: Any, words: str) -> None:
    part = BatchPart("x", given, spec)
    with pytest.raises(PipelineError) as caught:
        agreed_cut([part], 2, False).pieces(part)
    assert words in str(caught.value)


def test_lengths_of_what_is_given_beside_each_other_are_compared() -> None:
    def refused(words: str, *parts: BatchPart) -> None:
        with pytest.raises(PipelineError) as caught:
            agreed_cut(parts, 2, False)
        assert words in str(caught.value)

    x, target = torch.zeros(4, 3), torch.zeros(6)
    refused("x has 4 rows and target 6", BatchPart("x", x), BatchPart("target", target))
    refused("x has 4 rows and `mask` 6", BatchPart("x", x), BatchPart("`mask`", target))
    refused(
        "x has 3 rows in micro-batch 1 and target 2",
        BatchPart("x", MicrobatchList([x[:1], x[:3]])),
        BatchPart("target", MicrobatchList([x[:1], x[:2]])),
    )
    agreed_cut([BatchPart("x", x), BatchPart("p", target, _Replicate)], 2, False)


def test_what_is_not_cut_by_us_may_be_given_in_pieces() -> None:
    """A list is handed on as it is: sparse and nested tensors, arrays, anything."""
    odd = [torch.eye(3).to_sparse(), torch.nested.nested_tensor([X, X]), X.numpy(), Hidden()]
    part = BatchPart("x", {"odd": MicrobatchList(odd), "x": torch.zeros(4)})
    pieces = agreed_cut([part], 4, False).pieces(part)
    assert [piece["odd"] for piece in pieces] == odd


def test_objects_without_tensors_are_repeated() -> None:
    plain = [object(), Random(0), torch.nn.Linear(1, 1), torch.Generator(), len, range(3), {1, 2}]
    part = BatchPart("x", (X, plain))
    pieces = agreed_cut([part], 2, False).pieces(part)
    assert all(piece[1] == plain for piece in pieces)


def test_whole_values_beside_a_list_are_cut_by_its_lengths() -> None:
    whole = torch.arange(6)
    listed = MicrobatchList.cut(torch.zeros(6, 2), [3, 1, 2])
    assert [len(piece) for piece in listed] == [3, 1, 2]
    parts = [BatchPart("x", listed), BatchPart("target", {"y": whole})]
    pieces = agreed_cut(parts, 3, False).pieces(parts[1])
    assert [piece["y"].tolist() for piece in pieces] == [[0, 1, 2], [3], [4, 5]]
    with pytest.raises(PipelineError, match="lengths 3, 1 do not cut a tensor of shape"):
        MicrobatchList.cut(whole, [3, 1])


def test_a_block_mask_is_cut_as_by_torch() -> None:
    from torch.nn.attention.flex_attention import create_block_mask

    def causal(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) | (batch % 2 == 0)

    mask = create_block_mask(causal, 4, None, 128, 128, device="cpu")
    theirs, _ = split_args_kwargs_into_chunks((mask, torch.zeros(4)), {}, 2)
    part = BatchPart("x", (mask, torch.zeros(4)))
    ours = agreed_cut([part], 2, False).pieces(part)
    for (one, _), (other, _) in zip(ours, theirs, strict=True):
        assert torch.equal(one.kv_indices, other.kv_indices) and one.shape == other.shape
    for_all = create_block_mask(causal, None, None, 128, 128, device="cpu")
    part = BatchPart("x", (for_all, torch.zeros(4)))
    assert agreed_cut([part], 2, False).pieces(part)[1][0] is for_all
    part = BatchPart("x", (mask, MicrobatchList([torch.zeros(1), torch.zeros(3)])))
    with pytest.raises(PipelineError, match="is a BlockMask, which torch cuts into equal pieces"):
        agreed_cut([part], 2, False).pieces(part)


# Merging -----------------------------------------------------------------------------------------


def test_outputs_that_have_nothing_in_common_stay_apart() -> None:
    """No number of one micro-batch stands for all."""
    one, two = torch.zeros(2, 3), torch.zeros(2, 5)
    assert merged([torch.tensor(1.0), torch.tensor(2.0)]).tolist() == [1, 2]
    assert merged([{"n": 3, "word": None}, {"n": 3, "word": None}]) == {"n": 3, "word": None}
    apart = merged([{"n": 3, "y": one, "z": ()}, {"n": 4, "y": two, "z": (1,)}])
    assert all(isinstance(apart[key], MicrobatchList) for key in "nyz")
    assert list(apart["n"]) == [3, 4] and apart["y"][1] is two and list(apart["z"]) == [(), (1,)]
    kinds = merged([{"a": one}, {"b": one}])
    assert isinstance(kinds, MicrobatchList) and list(kinds[1]) == ["b"]
    assert merged([one.T, two.T], TensorChunkSpec(0)).shape == (8, 2)
    assert merged([(one, 1), (two, 1)], (TensorChunkSpec(1), None))[0].shape == (2, 8)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (TensorChunkSpec(0), "the output cannot be merged as its spec says"),
        (TensorChunkSpec(7), "the output cannot be merged as its spec says"),
        (_Replicate, "the output differs between micro-batches"),
        ((TensorChunkSpec(0),), "the merge spec of the output has another structure"),
    ],
)
def test_a_merge_spec_that_does_not_fit_is_refused(spec: Any, words: str) -> None:
    with pytest.raises(PipelineError, match=words):
        merged([torch.zeros(2, 3), torch.ones(2, 5)], spec)


def test_a_signature_tells_shapes_types_and_structure_apart() -> None:
    given = [
        X,
        X[:2],
        X.double(),
        (X,),
        [X],
        {"a": X},
        {"b": X},
        {"a": X, "b": None},
        {"a": X, "b": 1},
        {"a": X, "b": "1"},
        Pair(X, X),
        (X, X),
        Encoding({"a": X}),
        MicrobatchList([X]),
    ]
    assert len({signature(item) for item in given}) == len(given)
    assert signature({"a": object()}) == signature({"a": object()})


def test_values_are_rebuilt_around_other_items() -> None:
    assert rebuilt(Pair(1, 2), [3, 4]) == Pair(3, 4)
    assert sum(1 for _ in tensors({"a": [X, {"b": (X, 1)}], "c": Frozen(X)})) == 3
