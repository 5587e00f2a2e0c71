"""Plans for pictures, with all that those have to show, and with hostile names; and what a page is
made of."""

from collections import Counter
from html.parser import HTMLParser
from random import Random

import msgspec

from stretto.compiler.bounds.bound import bound
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.order.arrange import arrange
from stretto.compiler.order.budget import Budget
from stretto.compiler.plan.plan import Plan, assemble
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import Spec
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicate, forwards
from stretto.compiler.program.program import Claims, Program, ProgramName, Send
from tests.support import specs

EVIL = '</script><script>alert(1)</script>"><img src=x onerror=alert(1)>\x1b]0;x\x07]]>&amp;'


def planned(spec: Spec, source: str = "made\n") -> Plan:
    order = arrange(expand(spec), Budget())
    programs: dict[ProgramName, Program] = {"train": communicate(order), "eval": forwards(order)}
    claimed: dict[ProgramName, Claims] = {name: claims(made) for name, made in programs.items()}
    least = bound(order.problem)
    return assemble(programs, claimed, least, "written", [Source("made.pipe", source)])


def some_specs() -> list[Spec]:
    """Schedules with all that pictures have to show: several stages on a rank, both directions,
    pairs, slices, transfers, fractions of time."""
    random = Random(7)
    found = [
        specs.ordered(specs.interleaved(3, 2, 6, transfer=1), specs.interleaved_1f1b),
        specs.ordered(specs.linear(4, 8, (3, 4, 2), split=True), specs.zb_h1),
        specs.random_order(specs.both_ways(4, 8, pair=3), random, pairs=0.7),
    ]
    found += [specs.random_order(specs.random_model(random), random, 0.3) for _ in range(30)]
    return [msgspec.structs.replace(spec, time_unit=3) for spec in found]


def evil() -> Plan:
    spec = specs.ordered(specs.linear(2, 3), specs.gpipe)
    lines = tuple(msgspec.structs.replace(p, name=EVIL) for p in spec.pipelines)
    spans = tuple(span._replace(file=EVIL) for span in spec.spans)
    return planned(msgspec.structs.replace(spec, name=EVIL, pipelines=lines, spans=spans), EVIL)


def sends(plan: Plan) -> int:
    return sum(isinstance(one, Send) for rank in plan.programs["train"].ranks for one in rank)


class Page(HTMLParser):
    """The scripts and policy of a page, as a browser finds them."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.scripts: list[str] = []
        self.policy = self.style = ""
        self.inside = self.styled = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.styled = tag == "style"
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append("")
        values = dict(attrs)
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"] or ""

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.styled = False

    def handle_data(self, data: str) -> None:
        if self.styled:
            self.style += data
        if self.inside:
            self.scripts[-1] += data
