"""x ≼ y on the ranks alone says the same as over all op classes, and takes memory for the op
classes of a rank times themselves."""

import pytest

from stretto.compiler.bounds.microbatch_order import AT_ONCE, ancestors, rank_order
from stretto.compiler.bounds.relaxation import relax
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.evaluation import evaluate
from stretto.compiler.language.parse import parse

CHAIN = "ranks 300 microbatches 2 pipeline main { stages ranks place s -> s } split B into I, W"
ROUND = "ranks 5 microbatches 3 pipeline main { stages 4 * ranks } split B into I, W"
BENT = "ranks {} microbatches 2 pipeline main {{ stages 2*ranks place s -> min(s, 2*ranks-1-s) }}"
TWO = """ranks 4 microbatches 4
pipeline near { stages ranks microbatches 2 place s -> s }
pipeline far { replicates near microbatches 2 place s -> ranks - 1 - s }
split microbatch into 3 slices"""
FED = """ranks 3 microbatches 4
pipeline left { stages 3 microbatches 2 feeds both[1] forward only }
pipeline both { stages 6 microbatches 2 place s -> s // 2 }
rule F both[0, m] after F left[1, m] for m in 0 .. 2"""
TEXTS = [CHAIN, ROUND, BENT.format(20), BENT.format(AT_ONCE // 3), TWO, FED]


@pytest.mark.parametrize("text", TEXTS, ids=["chain", "round", "bent", "chunks", "two", "fed"])
def test_the_order_on_ranks_is_that_of_all(text: str) -> None:
    relaxed = relax(evaluate(parse(Source("x.pipe", f"schedule x {text} order auto"))))
    order, lower = rank_order(relaxed), ancestors(relaxed)
    assert order is not None
    pairs = 0
    for rank in relaxed.ranks:
        for y in relaxed.on(rank):
            for x in relaxed.on(rank):
                assert order.precedes(x, y) == bool(lower[y] >> x & 1)
                pairs += 1
    assert pairs >= len(relaxed.classes)
