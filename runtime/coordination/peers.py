"""The ranks of a plan, as one of them sees them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from stretto.runtime.coordination.store import Store


class Peers(NamedTuple):
    """This `rank` of `world` ranks, the `store` that they share, and the `timeout`: how many
    seconds one waits for another."""

    rank: int
    world: int
    store: Store
    timeout: float

    def wait(self, keys: Sequence[str]) -> list[Any]:
        """The value of each key, once other ranks have posted them. Raises `MissingKeys` after
        the timeout, `PipelineError` where a rank fails meanwhile."""
        return self.store.wait(keys, self.timeout)
