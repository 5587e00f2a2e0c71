"""What a module is given, so that it may write on it. In comes a tensor that others read too: a
received activation, the output of a stage before, a piece of the user's batch; out comes one with
the same contents, linked to it in the autograd graph, of which a write changes nothing but itself.
The other way round, `Versions` notices a module that writes on what it has handed on."""

from collections.abc import Iterable

import torch
from torch import Tensor

_lazy_clone = torch._lazy_clone  # pyright: ignore[reportPrivateImportUsage]
LAZY = {"cpu"}
"""The types of devices on which a clone waits for the first write. On a GPU torch would then copy
outside of the stream that writes (`cudaMemcpy`), and so beside what makes the tensor; and of memory
that is shared its allocator takes no note of streams."""


def writable(tensor: Tensor) -> Tensor:
    """The tensor's contents for one module. They are copied at the first write, if there is one;
    at once on a GPU, and where the memory is not torch's own (numpy's, shared)."""
    if not tensor.is_cpu or "cpu" not in LAZY:  # asked so, in a fifth of the time
        return tensor.clone()
    try:
        return _lazy_clone(tensor)
    except RuntimeError:
        return tensor.clone()


class Versions:
    """How often the tensors had been written on when this was made."""

    __slots__ = ("seen",)

    def __init__(self, tensors: Iterable[Tensor]):
        self.seen: list[tuple[Tensor, int]] = []
        for one in tensors:
            if not one.is_inference():
                self.seen.append((one, one._version))

    def changed(self) -> bool:
        """Whether one of them has been written on since, also by way of a view."""
        for tensor, count in self.seen:  # noqa: SIM110  asked of every result: a loop is quicker
            if tensor._version != count:
                return True
        return False
