"""The glossary: its words are those that are used, and the names it says PyTorch has are there."""

import re
from pathlib import Path

import generate_glossary
import pytest

from tests.repository.sources import modules
from tests.repository.test_names import types
from tests.support.paths import ROOT

TERMS = [term for group in generate_glossary.groups() for term in group["term"]]

# The values of the line and what they are made of: whoever renames one renames it in the table too.
DOMAIN = {
    "Schedule",
    "Spec",
    "Problem",
    "Order",
    "Program",
    "Timeline",
    "Proof",
    "Bound",
    "Plan",
    "Diagnostic",
    "Pipeline",
    "Stage",
    "Operation",
    "Channel",
    "Reduction",
    "Rule",
    "Limit",
    "Transfer",
    "Executor",
}


def test_the_page_is_made_from_the_table() -> None:
    assert (ROOT / "docs/glossary.md").read_text("utf-8") == generate_glossary.glossary()


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term["word"])
def test_a_word_is_used(term: generate_glossary.Term) -> None:
    """Beside this table: in a document, a schedule or the code. `tick` is used by "ticks" too."""
    pages = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "schedules").glob("*.pipe"),
    ]
    texts = [p for p in [*pages, *modules().values()] if p != ROOT / "docs/glossary.md"]
    word = re.compile(rf"\b{term['word'].replace(' ', '[ _-]?')}", re.IGNORECASE)
    assert any(map(word.search, (path.read_text("utf-8") for path in texts)))


def test_no_word_stands_twice() -> None:
    words = [term["word"] for term in TERMS]
    assert len(words) == len(set(words))


def test_the_types_that_are_words_of_the_domain_are_in_it() -> None:
    named = {name for term in TERMS for name in term.get("types", [])}
    there = set().union(*map(types, modules().values()))
    assert named <= there
    assert named >= DOMAIN


def test_what_pytorch_is_said_to_have_is_in_the_installed_one() -> None:
    torch = pytest.importorskip("torch")
    if not torch.__version__.startswith("2.13."):
        pytest.skip("the glossary speaks of torch 2.13")
    pipelining = Path(torch.__file__).parent / "distributed/pipelining"
    source = "\n".join(path.read_text("utf-8") for path in pipelining.glob("*.py"))
    for term in TERMS:
        for name in re.findall(r"`([^`]+)`", term.get("pytorch", "")):
            bare = name.removesuffix("()").split(".")[-1]
            known = re.search(rf"\b{re.escape(bare)}\b", source)
            assert known or bare in ("0F3",), f"{term['word']}: {name}"
