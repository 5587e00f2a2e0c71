"""Hooks of the user's in a graph, or that there are none. Torch counts the hooks that it makes: as
long as the count stays, there are no more."""

from torch.utils.hooks import RemovableHandle

from stretto.runtime.stage.engine import ACCELERATOR


def hooks_made() -> int | None:
    """How many hooks this process has made, of any kind, for modules, tensors and nodes; None
    where this torch does not count them. As long as it stays what it was before a forward, there is
    no hook in the graph of that forward."""
    return getattr(RemovableHandle, "next_id", None)


def none_since(count: int | None) -> bool:
    """Whether no hook was made since `hooks_made` gave this count, on a device that needs none."""
    return count is not None and count == hooks_made() and ACCELERATOR is None


def none_at_parameters() -> bool:
    """Whether no hook was made in this process but that of `node_calls`."""
    return none_since(1)
