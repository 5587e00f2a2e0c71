"""Random files: whatever they say, the answer is a Spec or diagnostics that can be shown, within
seconds. `make fuzz` tries many more."""

import os
import re
from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.diagnostics.render import FORMATS, render
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.driver import compile_text
from stretto.compiler.evaluation import Settings, evaluate
from stretto.compiler.language import syntax as s
from stretto.compiler.language.parse import parse
from stretto.compiler.order.budget import Budget
from tests.support import printed
from tests.support.paths import ROOT

EXAMPLES = int(os.environ.get("FUZZ", "150"))
SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
FEW = Settings(max_ops=3_000)
LIBRARY = {path.stem: path.read_text() for path in sorted((ROOT / "schedules").glob("*.pipe"))}
WORDS = sorted({w for text in LIBRARY.values() for w in re.findall(r"\w+|[^\w\s]+", text)})
ODD = ["", "0", "-1", "1/2", "10000000000", "stages", "?", "[", "]", "{", "}", "|", ";", '"', "é",
       "W", "slice 1", "if r == 0 then 1 else 2", "order auto", "split microbatch into 2 slices",
       "feeds main[0]", ".mlp", "layer 0", "2 *", "on comm", "split F into a, 2 * (mlp on comm, b)",
       "forward only", "next", "queue q", "for i in 0 .. 3", "\n"]  # fmt: skip


def answered(source: Source, rejected: Rejected) -> None:
    assert rejected.diagnostics
    assert len(set(rejected.diagnostics)) == len(rejected.diagnostics)
    places = [d.labels[0].span[1:3] for d in rejected.diagnostics if d.labels]
    assert places == sorted(places)
    for format_ in FORMATS:
        render(rejected.diagnostics, [source], format_).encode()
    event(rejected.diagnostics[0].code)


HEAD = """\
schedule a ranks 2 microbatches 3
pipeline bc { } pipeline forward { stages 3 forward only } split B into I, W
overlap F | B overlap F | I split microbatch into 2 slices
let a = 1 param x_1 = 2 let rank = bc let cost = [0, 1] let on = 1 == 1
"""
CUT = """\
split F[rank_] into a if rank_ == 0, 2 * (bc on x_1, x_1), cost on a if stages > 2, on
"""
HEADS = st.sampled_from([HEAD, HEAD.replace(" split microbatch into 2 slices", "") + CUT])
DEEP = st.lists(
    printed.STATEMENTS.filter(lambda x: not isinstance(x, s.Titled | s.Ranks | s.Microbatches)),
    max_size=3,
).map(lambda some: s.Schedule(Source("", ""), tuple(some)))


@given(st.tuples(HEADS, DEEP) | st.tuples(st.just(""), printed.SCHEDULES))
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=SLOW)
def test_any_syntax_gets_an_answer(case: tuple[str, s.Schedule]) -> None:
    head, schedule = case
    source = Source("random.pipe", head + printed.schedule(schedule))
    read = parse(source)
    try:
        evaluate(read, FEW)
    except Rejected as rejected:
        answered(source, rejected)


@st.composite
def mutations(draw: Any) -> str:
    """A file of the library, some of its words deleted, doubled, exchanged or replaced."""
    text = LIBRARY[draw(st.sampled_from(sorted(LIBRARY)))]
    words = re.findall(r"#[^\n]*|\w+|\s+|[^\w\s]", text)
    for _ in range(draw(st.integers(1, 3))):
        i, j = (draw(st.integers(0, len(words) - 1)) for _ in range(2))
        match draw(st.integers(0, 4)):
            case 0:
                words[i] = ""
            case 1:
                words[i] += f" {words[j]} "
            case 2:
                words[i], words[j] = words[j], words[i]
            case 3:
                words[i] = f" {draw(st.sampled_from(WORDS))} "
            case 4:
                words[i] = f" {draw(st.sampled_from(ODD))} "
    return "".join(words)


@given(mutations())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=SLOW)
def test_any_change_of_a_file_gets_an_answer(text: str) -> None:
    source = Source("changed.pipe", text)
    try:
        compile_text(text, source.name, FEW, Budget(effort=0))
    except Rejected as rejected:
        answered(source, rejected)
    else:
        event("compiles")


@given(st.text(max_size=200) | st.text('{}[]()FBIW|;,.0123456789 \n=-<>"?#', max_size=200))
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=SLOW)
def test_any_text_gets_an_answer(text: str) -> None:
    source = Source("random.pipe", text)
    try:
        parse(source)
    except Rejected as rejected:
        answered(source, rejected)
