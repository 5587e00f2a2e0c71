"""Every size of every schedule either compiles to a proved plan or is refused by the file's own
`require`, and which sizes are legal is said here once more.
"""

from collections.abc import Callable, Iterator

import pytest

from stretto.compiler.diagnostics.diagnostic import Rejected
from tests.support import library
from tests.support.library import WRITTEN


def any_size(p: int, m: int) -> bool:
    return True


def two_ways(p: int, m: int) -> bool:
    return p % 2 == 0 and m % 2 == 0


LEGAL: dict[str, Callable[..., bool]] = {
    "gpipe": any_size,
    "one_f_one_b": any_size,
    "eager_1f1b": any_size,
    "zb_h1": any_size,
    "zb_h2": any_size,
    "zb_v": any_size,
    "looped_bfs": lambda p, m, chunks: chunks > 0,
    "inference": lambda p, m, chunks: chunks > 0,
    "hanayo": lambda p, m, waves: waves > 0,
    "chimera": two_ways,
    "gems": lambda p, m: m % 2 == 0,
    "two_models": lambda p, m: p % 2 == 0,
    "dualpipe": lambda p, m: two_ways(p, m) and m >= 2 * p,
    "dualpipe_v": lambda p, m: m >= 2 * p,
    "deepseek_v3": lambda p, m: two_ways(p, m) and m >= 2 * p,
    "deepseek_v3_v": lambda p, m: m >= 2 * p,
    "moe_1f1b": lambda p, m, chunks: chunks == 1 or m % p == 0,
    # Megatron's law: groups of at least one micro-batch per rank, a rest likewise or none.
    "interleaved_1f1b": lambda p, m, chunks, group: (
        min(p, m) <= group and chunks > 0 and (m % group == 0 or m % group >= p)
    ),
    "interleaved_zero_bubble": lambda p, m, chunks, group: (
        min(p, m) <= group and chunks > 0 and m % group == 0
    ),
}
CHUNKS = [{"chunks": chunks} for chunks in (0, 1, 2, 3)]
GROUPS = [{"chunks": 2, "group": group} for group in range(8)] + [{"chunks": 0, "group": 4}]
MORE = {
    "looped_bfs": CHUNKS,
    "inference": CHUNKS,
    "moe_1f1b": [{"chunks": chunks} for chunks in (1, 2)],
    "hanayo": [{"waves": waves} for waves in (0, 1, 2, 3)],
    "interleaved_1f1b": GROUPS,
    "interleaved_zero_bubble": GROUPS,
}


def sizes(name: str, ranks: int, microbatches: int) -> Iterator[dict[str, int]]:
    for p in range(1, ranks + 1):
        for m in range(1, microbatches + 1):
            for more in MORE.get(name, [{}]):
                yield {"ranks": p, "microbatches": m} | more


def check(name: str, size: dict[str, int]) -> None:
    if LEGAL[name](*size.values()):
        library.figures(library.spec(name, **size))
        return
    with pytest.raises(Rejected) as refusal:
        library.spec(name, **size)
    for diagnostic in refusal.value.diagnostics:
        assert diagnostic.code == "requirement"
        assert ": " in diagnostic.message, "says why"


def test_every_schedule_is_here() -> None:
    assert set(LEGAL) == set(WRITTEN)


@pytest.mark.parametrize("name", WRITTEN)
def test_sizes(name: str) -> None:
    for size in sizes(name, 4, 9):
        check(name, size)


@pytest.mark.full
@pytest.mark.parametrize("name", WRITTEN)
def test_many_sizes(name: str) -> None:
    for size in sizes(name, 8, 20):
        check(name, size)
