"""The documents of the language say what is so: every block of code in the reference and in the
tutorial is tried, and what the tutorial shows of commands is what they print.
"""

import re

import pytest
from generate_tutorial import tutorial

from stretto.compiler.diagnostics.source import Source
from tests.support import library
from tests.support.paths import DATA, ROOT

DOCS = ROOT / "docs"


BLOCKS = re.findall(r"^```(pipe\S*)\n(.*?)^```$", (DOCS / "language.md").read_text(), re.M | re.S)
AROUND = "schedule example ranks 4 microbatches 8\npipeline main {}\n"


@pytest.mark.parametrize(("kind", "body"), BLOCKS, ids=lambda part: part.splitlines()[0][:40])
def test_every_block_of_the_reference_is_right(kind: str, body: str) -> None:
    text = body if kind == "pipe" else AROUND + body
    spec = library.evaluated(Source("reference.pipe", text))
    if spec.written:
        library.figures(spec)


def test_the_tutorial_shows_what_happens() -> None:
    text = (DOCS / "tutorial.md").read_text()
    assert text.count("```console") >= 8
    assert tutorial(text) == text


def test_zb_h1_as_a_reader_of_the_tutorial_writes_it() -> None:
    """The exercise of the tutorial's fifth step, from the tutorial alone."""
    path = DATA / "newcomer.pipe"
    source = Source(path.name, path.read_text())
    for sizes in ({}, {"ranks": 2, "microbatches": 2}, {"ranks": 7, "microbatches": 7}):
        written = library.evaluated(source, **sizes)
        assert written.order == library.spec("zb_h1", **sizes).order
