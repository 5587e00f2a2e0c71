"""`examples/train.py`, which `docs/trainer.md` goes through, trains as one process does."""

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stretto.compiler.plan.plan import Plan, write_plan
from stretto.runtime.train.find import find
from tests.support.paths import ROOT
from tests.support.ranks import run
from tests.support.training import compiled

pytestmark = pytest.mark.xdist_group("ranks")

EXAMPLE = str(ROOT / "examples/train.py")
WORDS = ["--steps", "3", "--accumulate", "2", "--clip", "2"]


def chosen(plan: Plan, folder: Path, *words: str) -> argparse.Namespace:
    write_plan(plan, folder / "a.plan")
    parser: argparse.ArgumentParser = find(f"{EXAMPLE}:parser", "model")()
    return parser.parse_args([str(folder / "a.plan"), *WORDS, *words])


def as_rank(rank: int, options: argparse.Namespace) -> Any:
    return find(f"{EXAMPLE}:train", "model")(options, rank)


def trained(options: argparse.Namespace) -> tuple[list[list[float]], str]:
    """By rank the mean losses of its steps; what was printed."""
    outcome = run(2, as_rank, options, seconds=120)
    return outcome.results, "\n".join(outcome.output)


def alone(stages: int, microbatches: int, amp: str | None = None) -> list[float]:
    """The same by hand, in one process."""
    gpt = find(f"{ROOT}/examples/gpt.py:GPT", "model")()
    data = find(f"{ROOT}/examples/gpt.py:data", "model")
    model = nn.Sequential(*(gpt.stage(s, stages) for s in range(stages)))
    named = list(model.named_parameters())
    decayed = [p for name, p in named if p.dim() == 2 and ".embedding." not in name]
    others = [p for name, p in named if p.dim() != 2 or ".embedding." in name]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=2e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 10))
    found = []
    for step in (1, 2, 3):
        losses = []
        for number in (2 * step - 1, 2 * step):
            x, target = data(number)
            for a, b in zip(x.chunk(microbatches), target.chunk(microbatches), strict=True):
                with torch.autocast("cpu", torch.bfloat16, enabled=amp is not None):
                    loss = gpt.loss(model(a), b)
                (loss / (2 * microbatches)).backward()
                losses.append(loss.detach())
        nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        found.append(torch.stack(losses).mean().item())
    return found


@pytest.mark.parametrize(
    ("name", "amp"),
    [("zb_h1", "bfloat16"), pytest.param("one_f_one_b", None, marks=pytest.mark.full)],
)
def test_the_loop_is_that_of_one_process(name: str, amp: str | None, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    plan = compiled(name, ranks=2, microbatches=4)
    options = chosen(plan, tmp_path, *(["--amp", amp] if amp else []))
    (_, told), _ = trained(options)
    assert told == alone(2, 4, amp)


def test_it_goes_on_from_a_checkpoint_and_evaluates(tmp_path: Path) -> None:
    plan = compiled("dualpipe", ranks=2, microbatches=4)
    whole, _ = trained(chosen(plan, tmp_path))
    saving = ["--checkpoints", str(tmp_path / "saved"), "--save-every", "1", "--eval-every", "2"]
    first = chosen(plan, tmp_path, *saving)
    first.steps = 2
    _, printed = trained(first)
    assert len(re.findall(r"^step 2  rank \d  eval loss \d\.\d+$", printed, re.MULTILINE)) == 2
    assert [told[2:] for told in whole] == trained(chosen(plan, tmp_path, *saving))[0]


def test_the_page_shows_parts_of_it_as_they_are() -> None:
    page = (ROOT / "docs/trainer.md").read_text()
    script = Path(EXAMPLE).read_text()
    shown = re.findall(r"<!-- examples/train.py -->\n```python\n(.*?)```", page, re.DOTALL)
    assert len(shown) >= 4
    for block in shown:
        assert block in script, block
