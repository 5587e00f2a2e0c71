"""What other programs read: the trace for Perfetto, the graph for Graphviz, torch's CSV."""

import json
import re
from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.problem.spec import Operation, show
from stretto.compiler.show import draw
from tests.support import specs
from tests.support.pictures import planned, sends, some_specs

# ------------------------------------------------------------------------- trace


def test_the_trace_keeps_perfettos_rules() -> None:
    """Slices of a track nest, ids of arrows are whole numbers, both ends of an arrow lie within
    slices: else Perfetto drops them."""
    for spec in some_specs()[:10]:
        plan = planned(spec)
        events = json.loads(draw(plan, "trace"))["traceEvents"]
        tracks: dict[tuple[int, int], list[tuple[float, float]]] = {}
        for event in (e for e in events if e["ph"] == "X"):
            track = tracks.setdefault((event["pid"], event["tid"]), [])
            track.append((event["ts"], event["ts"] + event["dur"]))
        for slices in tracks.values():
            assert all(a[1] <= b[0] + 1e-6 for a, b in pairwise(sorted(slices)))
        arrows = [e for e in events if e["ph"] in "sf"]
        for arrow in arrows:
            assert isinstance(arrow["id"], int)
            inside = tracks[arrow["pid"], arrow["tid"]]
            assert any(start <= arrow["ts"] <= end for start, end in inside)
        starts = Counter(e["id"] for e in arrows if e["ph"] == "s")
        assert starts == Counter(e["id"] for e in arrows if e["ph"] == "f")
        assert all(count == 1 for count in starts.values())


def test_the_trace_has_an_arrow_for_every_message() -> None:
    plan = planned(some_specs()[0])
    events = json.loads(draw(plan, "trace"))["traceEvents"]
    assert sum(e["ph"] == "s" for e in events) == sends(plan) > 0


# ------------------------------------------------------------------------- dot


def test_dot_has_the_edges_of_the_language() -> None:
    for spec in some_specs()[:8]:
        text = draw(planned(spec), "dot")
        names = dict(re.findall(r'^ +n(\d+) \[label="([^"]*)"', text, re.M))
        edges = re.findall(r"^  n(\d+) -> n(\d+) \[(.*)\];$", text, re.M)
        data = {(names[a], names[b]) for a, b, look in edges if "constraint" not in look}
        written = [o for units in spec.written for unit in units for o in unit.operations]
        cut = {o[1:5] for o in written if o.kind == "W"}
        needed = {
            (show(spec, other), show(spec, one))
            for one in written
            for other in specs.needs(spec, one, cut)
        }
        assert len(names) == len(written)
        assert needed <= data


# ------------------------------------------------------------------------- torch


def test_torch_takes_the_csv_and_completes_it() -> None:
    """torch's own reader and lowering, which deadlocks on what it cannot run."""
    schedules = pytest.importorskip("torch.distributed.pipelining.schedules")
    made = [
        specs.ordered(specs.interleaved(4, 2, 8), specs.interleaved_1f1b),
        specs.ordered(specs.linear(4, 8, split=True), specs.zb_h1),
        specs.ordered(specs.linear(3, 5), specs.gpipe),
    ]
    for spec in made:
        rows = draw(planned(spec), "torch-csv").splitlines()
        assert len(rows) == spec.ranks
        actions = {
            rank: [schedules._Action.from_str(cell) for cell in row.split(",")]
            for rank, row in enumerate(rows)
        }
        stages = len(spec.pipelines[0].stages)
        place = {s: stage.rank for s, stage in enumerate(spec.pipelines[0].stages)}
        schedules._validate_schedule(actions, spec.ranks, stages, spec.microbatches)
        many = sum(map(len, actions.values()))
        lowered = schedules._add_send_recv(actions, place.__getitem__, stages)
        assert sum(a.is_compute_op for row in lowered.values() for a in row) == many


def test_torch_is_not_given_what_it_would_get_wrong() -> None:
    copies = specs.random_order(specs.both_ways(2, 4), Random(1))
    with pytest.raises(Rejected, match="`up` puts the stages on further ranks"):
        draw(planned(copies), "torch-csv")
    units = [
        [(Operation("F", 0, 0, 1),), (Operation("F", 0, 0, 0),)],
        [(Operation("F", 0, 1, 1),), (Operation("F", 0, 1, 0),)],
    ]
    for rank, units_ in enumerate(units):
        units_ += [(Operation("B", 0, rank, m),) for m in (0, 1)]
    turned = specs.written(specs.linear(2, 2), units)
    with pytest.raises(Rejected, match=r"`F main\[1, 0\]` runs after `F main\[1, 1\]`"):
        draw(planned(turned), "torch-csv")
