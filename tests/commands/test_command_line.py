"""What the command line says of itself and of mistakes in it: the error first, then the usage in a
line; help with examples that can be typed as they stand; completion in a real shell."""

import shlex
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import pytest

from stretto.compiler import library
from stretto.compiler.commands import COMMANDS
from stretto.compiler.commands.parsers import commands_of, parser
from tests.support.command_line import Run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("chekc dualpipe", "there is no command `chekc`; did you mean `check`?"),
        ("frobnicate", "there is no command `frobnicate`"),
        ("check", "missing: FILE"),
        ("run dualpipe", "missing: --model"),
        ("check --tme-limit 3 dualpipe", "no flag `--tme-limit`; did you mean `--time-limit`?"),
        ("check --tme-limit=3 dualpipe", "no flag `--tme-limit`; did you mean `--time-limit`?"),
        ("show dualpipe --format hmtl", "--format: `hmtl` is not one of text, svg, html"),
        ("show dualpipe --format hmtl", "did you mean `html`?"),
        ("compile v_half --engine lits", "did you mean `list`?"),
        ("explain left-out more", "`more` is one word too many"),
        ("check good.pipe --set ranks", "--set: `ranks` is not NAME=VALUE"),
        (
            "compile dualpipe --ranks 64",
            "no flag `--ranks`; sizes are set by name, `--set ranks=64`",
        ),
        ("show --pp=4 dualpipe", "`--pp`; sizes are set by name, `--set ranks=4`"),
        ("check --num-microbatches 8 dualpipe", "by name, `--set microbatches=8`"),
        ("compile dualpipe --vpp 2", "`--set chunks=2`, where the file has that `param`"),
        ("compile dualpipe --num-stages 4", "the file says how many stages there are"),
        ("compile dualpipe --beta 3/2", "is set with `--set beta=3/2`"),
        ("run dualpipe --nproc 4 --model x", "`--set ranks=4`; each rank is a process"),
        ("doctor --ranks 3", "there is no flag `--ranks`"),
        ("compile dualpipe --time-limit 10x", "`10x` is no time such as 10, 2.5, 90s or 3m"),
        ("compile dualpipe --time-limit nan", "`nan` is no time such as"),
        (
            "compile dualpipe --gap 2%%",
            "`2%%` is no fraction of the bound such as 0.02, 1/50 or 2%",
        ),
        ("compile dualpipe --timeout 4", "did you mean `--time-limit`?"),
        ("run dualpipe --model m:n --timeout 0", "without any time no other rank can be waited"),
        ("run dualpipe --model m:n --timeout -1", "`-1` is no time such as 10, 2.5, 90s or 3m"),
        ("run dualpipe --model m:n --timeout nan", "`nan` is no time such as"),
        ("run dualpipe --model m:n --timeout inf", "`inf` is no time such as"),
        ("run dualpipe --model m:n --clip no", "`no` is no number above 0"),
        ("check dualpipe -o out.plan", "this one prints; `stretto compile FILE -o PLAN`"),
        ("compile dualpipe out.plan", "one word too many; did you mean `-o out.plan`?"),
        ("compile dualpipe 8", "sizes are set by name, such as `--set ranks=8`"),
        ("compile dualpipe --set ranks 8", "`ranks` is not NAME=VALUE, such as `ranks=8`"),
        ("show dualpipe --html", "no flag `--html`; did you mean `--format html`?"),
        ("show svg dualpipe", "did you mean `--format svg`?"),
        ("list --format json", "did you mean `--json`?"),
        ("compile dualpipe --verbose", "`-v` stands before the command"),
        ("dualpipe compile", "then the file: `stretto compile dualpipe`"),
        ("dualpipe", "then the file: `stretto show dualpipe`"),
        ("completion csh", "SHELL: `csh` is not one of bash, zsh, fish, tcsh"),
    ],
)
def test_an_error_comes_first_and_the_usage_in_one_line_after_it(
    stretto: Run, words: str, said: str
) -> None:
    code, out, err = stretto(*words.split())
    first, second = err.splitlines()
    assert (code, out) == (2, "")
    assert first.startswith("stretto: ")
    assert said in first
    command = words.split()[0]
    assert second.startswith(f"usage: stretto {command if command in COMMANDS else '[FLAGS]'} ")
    assert "--help` says more" in second


def test_what_is_for_tables_is_refused_of_schedules(stretto: Run) -> None:
    code, _, err = stretto("check", "--ranks", "4", "dualpipe")
    assert code == 2
    assert "--ranks is for tables" in err and "`--set ranks=4`" in err


def test_alone_it_shows_the_help(stretto: Run) -> None:
    code, _, err = stretto()
    assert code == 2
    assert all(f"    {command} " in err for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_of_the_help_can_be_typed(command: str) -> None:
    own = commands_of(parser())[command]
    own.fill()
    assert own.epilog
    for line in own.epilog.replace("\\\n", " ").splitlines()[1:]:
        words = shlex.split(line.split(" > ")[0], comments=True)
        assert words[:2] == ["stretto", command]
        parser().parse_args(words[1:])  # exits where something is wrong


def test_the_help_has_examples_and_defaults(stretto: Run) -> None:
    code, out, _ = stretto("compile", "--help")
    assert code == 0
    assert out.startswith("usage: stretto compile [FLAGS] FILE\n")
    assert "examples:\n  stretto compile dualpipe" in out


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("stretto che", {"check"}),
        ("stretto check dualpipe", {"dualpipe", "dualpipe_v"}),
        ("stretto check local", {"local.pipe"}),
        ("stretto compile dualpipe --time", {"--time-limit"}),
        ("stretto show dualpipe --format sv", {"svg"}),
    ],
)
def test_bash_completes(stretto: Run, tmp_path: Path, typed: str, offered: set[str]) -> None:
    if not shutil.which("bash"):
        pytest.skip("no bash here")
    (tmp_path / "local.pipe").touch()
    code, script, _ = stretto("completion", "bash")
    assert code == 0
    words = " ".join(shlex.quote(word) for word in typed.split())
    asked = f"""
        {script}
        COMP_WORDS=({words}); COMP_CWORD={len(typed.split()) - 1}
        $(complete -p stretto | sed 's/.*-F \\([^ ]*\\) .*/\\1/') stretto
        printf '%s\\n' "${{COMPREPLY[@]}}" """
    found = subprocess.run(
        ["bash", "-c", asked], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert {word.strip() for word in found.stdout.split()} == offered, found.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish", "tcsh"])
def test_scripts_for_other_shells_name_commands_and_schedules(stretto: Run, shell: str) -> None:
    code, script, _ = stretto("completion", shell)
    assert code == 0
    assert "certify" in script
    assert shell == "tcsh" or all(name in script for name in library.names())
    if shutil.which(shell):
        read = subprocess.run([shell, "-n"], input=script, text=True, timeout=60)
        assert read.returncode == 0


@pytest.mark.parametrize(
    ("words", "seconds"), [("2.5", 2.5), ("10s", 10), ("3m", 180), ("0", 0), (".5", 0.5)]
)
def test_times(words: str, seconds: float) -> None:
    chosen = parser().parse_args(["compile", "dualpipe", "--time-limit", words, "--gap", "2%"])
    assert (chosen.time_limit, chosen.gap) == (seconds, Fraction(1, 50))


def test_a_file_of_costs_that_is_missing_is_no_schedule_of_the_library(stretto: Run) -> None:
    code, _, err = stretto("compile", "dualpipe", "--costs", "missing.costs")
    assert (code, err) == (2, "stretto: there is no file `missing.costs`\n")
