"""`python -m tests.models [FILE]`: the table of schedules, models and features against one process;
with FILE it is written there too. Exit code 1 where a cell is not what is expected."""

import sys
import time
import warnings
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import torch

from stretto.compiler.library import names
from tests.models.cells import Feature, Found, run
from tests.models.features import FEATURES
from tests.models.zoo import ZOO, Entry


class Cell(NamedTuple):
    """A cell of the table and what came of it."""

    schedule: str
    entry: Entry
    feature: Feature
    found: Found


SAMPLE = ("one_f_one_b", "zb_h1", "dualpipe", "interleaved_1f1b")
"""The schedules under which every feature is tried: a plain one, one whose backward is split, one
with copies in both directions, one with several stages on a rank. A plain step is tried under all.
"""


def cells() -> list[tuple[str, Entry, Feature]]:
    """Everything that is run."""
    plain = FEATURES[0]
    found = [(schedule, entry, plain) for schedule in SCHEDULES for entry in ZOO]
    found += [(s, entry, feature) for feature in FEATURES[1:] for entry in ZOO for s in SAMPLE]
    return [(s, entry, feature) for s, entry, feature in found if entry.there]


SCHEDULES = [name for name in names() if name not in ("inference", "two_models")]
