"""The command line called in a folder of its own."""

from pathlib import Path

import pytest

from stretto.compiler import cli
from tests.support.command_line import GOOD, WRONG, Run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with some files, in which the command runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    (tmp_path / "good.pipe").write_text(GOOD)
    (tmp_path / "wrong.pipe").write_text(WRONG)
    (tmp_path / "latin.pipe").write_bytes(b"schedule caf\xe9")
    (tmp_path / "a.py").write_text("b = None\n")  # `--model a:b`
    (tmp_path / "c.py").write_text("def d(step): ...\n")  # `--data c:d`
    (tmp_path / "plan").write_text("an older plan")
    (tmp_path / "broken.json").write_text("{}")
    return tmp_path


@pytest.fixture
def stretto(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """`stretto(*words)`: its exit code and what it writes, in this process."""

    def run(*words: str) -> tuple[int, str, str]:
        try:
            code = cli.main(words)
        except SystemExit as error:  # argparse
            code = int(error.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
