"""The table of theorems is what the modules say and what the documents show."""

import importlib

import make
import pytest

from stretto.compiler.bounds.theorems import THEOREMS, Theorem
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
