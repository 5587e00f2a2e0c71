"""A file with a great many of one statement, whatever it is: four times as many take four times the
time of the processor, with slack, and what is said of them stays short."""

import gc
import json
import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path
from time import process_time

import pytest

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.diagnostics.render.full import full
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.driver import compile_text
from stretto.compiler.language.parse import MOST_CHARACTERS, MOST_TOKENS, TOKENS
from stretto.compiler.order.budget import Budget
from tests.attacks.conftest import Tally
from tests.attacks.statements import NAMES, text
from tests.support.command_line import STRETTO

MOST = 8  # times as long, for four times as much: 4 where it is linear, 16 where quadratic
SHORT = 0.3  # seconds of the processor below which nothing is compared
MOST_SAID = 100_000  # characters
SAMPLE = {
    *("many slices", "slices by name", "parts on streams", "parts in any order"),
    *("ranges of one", "a ring"),
}
SECONDS, MEMORY = 60, 3 << 30  # of the processor, and bytes of address space; at the largest size


def seconds(name: str, n: int) -> float:
    """Of the processor, for this process, to compile so many or to refuse them in few words."""
    written = text(name, n)
    gc.collect()
    before, said = process_time(), ""
    try:
        compile_text(written, "many.pipe", budget=Budget(effort=0))
    except Rejected as error:
        said = full(error.diagnostics, [Source("many.pipe", written)])
    took, many = process_time() - before, len(said)
    assert many < MOST_SAID
    return took


def fits(name: str, n: int) -> bool:
    """Whether a file may be so large."""
    written = text(name, n)
    return len(written) <= MOST_CHARACTERS and len(TOKENS.findall(written)) <= MOST_TOKENS


@pytest.mark.parametrize("name", NAMES)
def test_many_of_a_statement_take_as_long_as_they_are_many(
    name: str, attacks: Callable[[int, int], int], tally: Tally
) -> None:
    if name not in SAMPLE and not attacks(0, 1):
        pytest.skip("a sample is tried here, all by `make test-attacks`")
    n = 250
    seconds(name, n)  # what a first time costs
    little = seconds(name, n)
    while little < SHORT and n < 64_000 and fits(name, 4 * n):
        much = seconds(name, 4 * n)
        if much > max(MOST * little, SHORT):  # is it so again?
            little, much = (min(seconds(name, k) for _ in range(3)) for k in (n, 4 * n))
        assert much <= max(MOST * little, SHORT)
        n, little = 4 * n, much
    tally(of=n, milliseconds=round(1000 * little))


@pytest.mark.parametrize("name", NAMES)
def test_as_many_as_a_file_may_have(
    name: str, folder: Path, attacks: Callable[[int, int], int], tally: Tally
) -> None:
    """The largest file there may be: an answer, and never that it is a bug."""
    if not attacks(0, 1):
        pytest.skip("files of the largest size are tried by `make test-attacks`")
    n = 250
    while n < 16_000 and fits(name, 2 * n):
        n *= 2
    file = folder / "many.pipe"
    file.write_text(text(name, n))

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))

    command = [*STRETTO, "check", "--format", "json", str(file)]
    done = subprocess.run(command, capture_output=True, preexec_fn=limited, env=dict(os.environ))
    assert done.returncode in (0, 1), done.stderr[-2000:]
    if done.returncode:
        assert json.loads(done.stdout)
    tally(of=n, bytes=file.stat().st_size)
