"""How numba sees a `Bundle`: as one address, from which a field is read where it is used. Imported
only where loops are compiled."""

from functools import cache
from importlib import import_module
from typing import Any

from stretto.compiler.order.kernels.bundle import Bundle, IntRows, Ints, layout, words_of

extending: Any = import_module("numba.extending")
templates: Any = import_module("numba.core.typing.templates")
arrays: Any = import_module("numba.np.arrayobj")
types: Any = import_module("numba.core.types")
ir: Any = import_module("llvmlite.ir")
numpy: Any = import_module("numpy")

WORD: Any = ir.IntType(64)
VALUES: dict[Any, Any] = {
    int: types.int64,
    bool: types.boolean,
    Ints: types.Array(types.int64, 1, "C"),
    IntRows: types.Array(types.int64, 2, "C"),
}


class BundleType(types.Type):  # type: ignore[misc]
    """The type of all Bundles of one class."""

    def __init__(self, bundle: type[Bundle]):
        self.bundle: Any = bundle
        super().__init__(name=f"{bundle.__module__}.{bundle.__qualname__}")


@cache
def type_of(bundle: Any) -> BundleType:
    """The type of a Bundle's class."""
    return BundleType(bundle)


def table_of(one: Bundle) -> Any:
    """Where the fields of a Bundle lie: for an array its address and its lengths; what is a number
    itself; the address of another Bundle's table."""
    words: list[int] = []
    own: Any = type(one)
    for name, (kind, _) in layout(own).items():
        value = getattr(one, name)
        if kind in (int, bool):
            words.append(int(value))
        elif kind in (Ints, IntRows):
            if value.dtype != numpy.int64 or not value.flags.c_contiguous:
                raise TypeError(f"{name}: not an array of whole words")
            words += [value.ctypes.data, *value.shape]
        else:
            words.append(_address(value))
    return numpy.array(words, dtype=numpy.int64)


def _address(one: Any) -> int:
    """Where its table lies, which is made when it is first asked for."""
    if not hasattr(one, "table"):
        object.__setattr__(one, "table", table_of(one))
    return int(one.table.ctypes.data)


def _type(one: Any) -> BundleType:
    own: Any = type(one)
    return type_of(own)


def _unboxed(_: BundleType, one: Any, c: Any) -> Any:
    address = c.pyapi.object_getattr_string(one, "address")
    pointer = c.pyapi.long_as_voidptr(address)
    c.pyapi.decref(address)
    return extending.NativeValue(pointer)


def _resolved(_: Any, bundle: BundleType, name: str) -> Any:
    """The type of a field, for numba's inference."""
    kinds = layout(bundle.bundle)
    if name not in kinds:
        return None
    kind, _at = kinds[name]
    return VALUES.get(kind) or type_of(kind)


def _field(context: Any, builder: Any, bundle: Any, value: Any, name: str) -> Any:
    """Read a field. A table never changes, which the compiler is told, so that it reads each field
    once however often arrays are written to."""
    kind, at = layout(bundle.bundle)[name]
    table = builder.bitcast(value, WORD.as_pointer())
    words = []
    for k in range(words_of(kind)):
        word = builder.load(builder.gep(table, [WORD(at + k)]))
        word.set_metadata("invariant.load", builder.module.add_metadata([]))
        words.append(word)
    if kind is int:
        return words[0]
    if kind is bool:
        return builder.icmp_signed("!=", words[0], WORD(0))
    if kind not in (Ints, IntRows):
        return builder.inttoptr(words[0], context.get_value_type(type_of(kind)))
    array = arrays.make_array(VALUES[kind])(context, builder)
    strides = [WORD(8)] if kind is Ints else [builder.mul(words[2], WORD(8)), WORD(8)]
    arrays.populate_array(
        array,
        data=builder.inttoptr(words[0], WORD.as_pointer()),
        shape=words[1:],
        strides=strides,
        itemsize=WORD(8),
        meminfo=None,
    )
    return array._getvalue()


for name, of in (("address", _address), ("_numba_type_", _type)):
    setattr(Bundle, name, property(of))
extending.register_model(BundleType)(extending.models.OpaqueModel)
extending.unbox(BundleType)(_unboxed)
extending.lower_getattr_generic(BundleType)(_field)
extending.infer_getattr(
    type(
        "BundleFields",
        (templates.AttributeTemplate,),
        {"key": BundleType, "generic_resolve": _resolved},
    )
)
