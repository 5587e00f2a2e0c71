"""The table of theorems is what the modules say and what the documents show."""

import importlib

import make
import pytest

from stretto.compiler.bounds import best, bound
from stretto.compiler.bounds.context import Finding, Subject
from stretto.compiler.bounds.theorems import THEOREMS, Theorem
from stretto.compiler.problem.expand import expand
from tests.support import specs
from tests.support.paths import ROOT


@pytest.mark.parametrize("theorem", THEOREMS, ids=lambda theorem: theorem.name)
def test_a_module_states_and_proves_its_theorem(theorem: Theorem) -> None:
    module = importlib.import_module(f"stretto.compiler.bounds.{theorem.module}")
    words = module.__doc__ or ""
    assert theorem.name in words
    if theorem.name != "chain":
        assert "Proof." in words or theorem.name in ("B2", "B6")
    for function in (theorem.find, theorem.edges):
        assert function is None or function.__module__ == module.__name__


def test_every_theorem_that_is_asked_answers() -> None:
    assert all((theorem.asked is None) == (theorem.find is None) for theorem in THEOREMS)


def test_the_document_shows_the_table() -> None:
    page = (ROOT / "docs/bounds.md").read_text()
    assert make.bounds(page) == page


def test_a_theorem_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is added to the table is asked about every rank, and its reason is the bound's."""

    def find(subject: Subject) -> Finding | None:
        ticks = 1000 + subject.rank
        return Finding(ticks, subject, lambda asked: f"rank {asked.rank} says so")

    row = Theorem("B9", "made_up", "no less than 1000", "always", asked="rank", find=find)
    monkeypatch.setattr(best, "THEOREMS", (*THEOREMS, row))
    found = bound(expand(specs.linear(4, 8)))
    assert (found.ticks, found.reason) == (1003, "rank 3 says so")
