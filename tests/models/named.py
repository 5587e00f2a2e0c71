"""A cell by names, which travel from process to process."""

import warnings

import torch

from tests.models import replicated
from tests.models.cells import Found, run
from tests.models.features import FEATURES
from tests.models.zoo import ZOO


def one_cell(schedule: str, model: str, feature: str) -> Found:
    """Runs one cell, in a process that runs others too."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    (entry,) = [one for one in ZOO if one.name == model]
    if feature in replicated.HOW:
        return replicated.run(schedule, entry, feature)
    (chosen,) = [one for one in FEATURES if one.name == feature]
    try:
        return run(schedule, entry, chosen)
    except Exception as error:
        return Found("wrong", f"one process fails: {type(error).__name__}: {error}")
