"""`stretto completion SHELL`: the script by which a shell completes commands, flags, files and the
names of the schedules that ship. The script is shtab's, made of the parsers; where a file belongs
it offers files and schedules."""

from argparse import ArgumentParser, Namespace

from stretto.compiler import library
from stretto.compiler.commands import screen
from stretto.compiler.commands.parsers import commands_of, parser

EXAMPLES = """\
  stretto completion bash > ~/.local/share/bash-completion/completions/stretto
  stretto completion zsh > ~/.zfunc/_stretto    # with `fpath+=~/.zfunc` before `compinit`
  stretto completion fish > ~/.config/fish/completions/stretto.fish"""

SHELLS = ("bash", "zsh", "fish", "tcsh")
FILES = ("FILE", "PLAN", "PICTURE", "SCHEDULE", "WHAT")
"""What stands for a file, or a schedule, in the help of a command."""


def add(parser: ArgumentParser) -> None:
    """The flags of `completion`."""
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))


def run(chosen: Namespace) -> int:
    """Print the script."""
    import shtab

    top = parser()
    for command in commands_of(top).values():
        command.fill()
        for action in command._actions:
            if action.metavar in FILES:
                action.complete = {  # type: ignore[attr-defined]
                    "bash": "_stretto_files",
                    "zsh": "_stretto_files",
                    "fish": f"__fish_complete_path; printf '%s\\n' {' '.join(library.names())}",
                    "tcsh": "f",
                }
    script = shtab.complete(top, shell=chosen.shell, preamble=_preamble())  # type: ignore[arg-type]
    screen.write_data(f"{script}\n")
    return 0


def _preamble() -> dict[str, str]:
    """The function that completes a file or a schedule."""
    names = " ".join(library.names())
    return {
        "bash": f'_stretto_files() {{ compgen -W "{names}" -- "$1"; compgen -f -- "$1"; }}',
        "zsh": f"_stretto_files() {{ compadd {names}; _files }}",
    }
