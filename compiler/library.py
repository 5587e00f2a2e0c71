"""The schedules that ship, by name. In comes a name, out goes the text of its file."""

from pathlib import Path

from stretto.compiler.diagnostics.source import Source

FOLDER = Path(__file__).parent.parent / "schedules"  # `stretto.schedules`, wherever it is installed


def names() -> list[str]:
    """Every schedule of the library, sorted."""
    return sorted(file.stem for file in FOLDER.glob("*.pipe"))


def has(name: str) -> bool:
    """Whether a schedule of this name ships."""
    return name.isidentifier() and (FOLDER / f"{name}.pipe").is_file()


def read(name: str) -> Source:
    """The schedule's text, under the name that its diagnostics show."""
    file = f"{name}.pipe"
    return Source(file, (FOLDER / file).read_text("utf-8"))


def path(name: str) -> str:
    """Where the file of the schedule is."""
    return str(FOLDER / f"{name}.pipe")


def about(source: Source) -> str:
    """What a schedule file says of itself: the first sentence of its comment."""
    lines = []
    for line in source.text.splitlines():
        words = line.removeprefix("#").strip()
        if not line.startswith("#") or not words:
            break
        lines.append(words)
    return " ".join(lines).split(". ")[0].rstrip(".")
