"""Runs the tutorial: every file that it shows is written, every command is typed, and what the
commands print stands in the text afterwards.

A block `pipe NAME` is a file to write (`pipe-costs NAME` one with costs), a block `pipe-part` is
statements that are tried in place of the order of the file shown last. In a block `console` a line
`$ …` is a command; the lines up to the next one are what it printed.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from stretto.compiler.diagnostics.source import Source
from stretto.compiler.evaluation import Settings, evaluate
from stretto.compiler.language.parse import parse

BLOCK = re.compile(r"^```(\S+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def tutorial(text: str) -> str:
    """The same text with the outputs of today. Raises `Rejected` where a part is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        shown: list[str] = []

        def run(block: re.Match[str]) -> str:
            kind, name, body = block.groups()
            match kind:
                case "pipe" | "pipe-costs":
                    Path(folder, name).write_text(body)
                    if kind == "pipe":
                        shown.append(body)
                case "pipe-part":
                    declarations = shown[-1].partition("\norder ")[0]
                    evaluate(parse(Source("part.pipe", f"{declarations}\n{body}")), Settings())
                case "console":
                    commands = re.findall(r"^\$ (.*)$", body, re.MULTILINE)
                    printed = "\n".join(f"$ {line}\n{typed(line, folder)}" for line in commands)
                    return f"```console\n{printed}```"
                case "sh":  # for the reader's own files
                    pass
                case _:
                    raise ValueError(f"a block of kind {kind!r}")
            return block[0]

        return BLOCK.sub(run, text)


def typed(command: str, folder: str) -> str:
    """What the command prints, both streams, without colour, 100 columns wide."""
    program, *arguments = command.split()
    assert program == "stretto", command
    done = subprocess.run(
        [sys.executable, "-m", "stretto.compiler.cli", *arguments],
        cwd=folder,
        env=os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    if done.returncode > 1:
        raise ValueError(f"`{command}` ends with {done.returncode}: {done.stdout}")
    return done.stdout
