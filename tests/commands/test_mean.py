"""The mean under jitter is shown wherever the makespan is."""

import json
from pathlib import Path

from tests.support.command_line import Run


def test_every_command_shows_it_of_a_written_order(stretto: Run, folder: Path) -> None:
    """1F1B is optimal without jitter: that its mean is more is not left out."""
    text = (
        "schedule mine\nranks 2\nmicrobatches 4\npipeline main {}\n"
        "order rank r { let warmup = ranks - 1 - r; repeat warmup { F }\n"
        "repeat microbatches - warmup { F; B }; repeat warmup { B } }\n"
        "minimize makespan under jitter 1/5\n"
    )
    (folder / "mine.pipe").write_text(text)
    summary = json.loads(stretto("compile", "mine.pipe", "--json", "-o", "mine.plan")[1])
    value = summary["mean"]["value"]
    assert summary["engine"] == "written" and summary["optimal"] and value > summary["makespan"]
    shown = f"mean makespan {value:.3f}"[:-1]
    for command in ("check", "compile", "show", "explain"):
        out = " ".join(stretto(command, "mine.pipe")[1].split())
        assert shown in out, command
    assert json.loads(stretto("explain", "mine.pipe", "--json")[1])["mean"] == summary["mean"]
    assert shown in stretto("check", "mine.plan")[1]
