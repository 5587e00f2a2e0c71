"""What a command finds right and seldom meant: warnings. Each place is told once, on stderr, or
where a command's diagnostics are data, among them; `--json` has all of them, as objects."""

from argparse import Namespace
from collections.abc import Callable, Mapping
from json import dumps
from typing import TYPE_CHECKING

from msgspec import Raw

from stretto.compiler.commands import files
from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label

if TYPE_CHECKING:
    from stretto.compiler.evaluation.settings import SeldomMeant


def doubting(chosen: Namespace, paths: Mapping[str, str]) -> "Callable[[SeldomMeant], None]":
    """What `Settings.doubt` is to call: files are called by the `paths` that were given."""

    def tell(doubt: "SeldomMeant") -> None:
        place = doubt.at._replace(file=paths.get(doubt.at.file, doubt.at.file))
        warn(chosen, Diagnostic(doubt.code, doubt.words, (Label(place),), severity="warning"))

    return tell


def warn(chosen: Namespace, warning: Diagnostic, file: str = "") -> None:
    """Keep the warning, and tell it unless this command told one of its code and place, or its
    diagnostics are data. `file`: what it is about where it has no place in a text."""
    new = _place(warning, file) not in {_place(one, file) for one in warnings(chosen)}
    warnings(chosen).append(warning)
    if new and not getattr(chosen, "diagnostics_are_data", False):
        files.say(f"{_place(warning, file)[1]}: {warning.message}")


def _place(warning: Diagnostic, file: str) -> tuple[str, str]:
    """Its code, and the file and the line."""
    span = warning.labels[0].span if warning.labels else None
    return warning.code, f"{span.file}:{span.line}" if span else file


def warnings(chosen: Namespace) -> list[Diagnostic]:
    """All of this command so far, repeated ones too."""
    found: list[Diagnostic] = vars(chosen).setdefault("warnings", [])
    return found


def as_data(chosen: Namespace, since: int = 0) -> list[Raw]:
    """The warnings of this command, from this one on, as the objects of `check --format json`:
    text already, since the names of files may be no Unicode."""
    from stretto.compiler.diagnostics.render.json import as_object

    return [Raw(dumps(as_object(one)).encode()) for one in dict.fromkeys(warnings(chosen)[since:])]
