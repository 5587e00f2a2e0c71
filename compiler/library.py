"""The schedules that ship, by name. In comes a name, out goes the text of its file."""

import re
from pathlib import Path

from stretto.compiler.diagnostics.source import Source
from stretto.compiler.diagnostics.suggest import nearest

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


CALLED = {
    "one_f_one_b": ("1f1b", "one1b", "pipedream", "pipedreamflush", "nonint1f1b"),
    "eager_1f1b": ("eager",),
    "interleaved_1f1b": ("interleaved", "vpp", "virtualpipeline", "megatron"),
    "gpipe": ("afab", "fthenb", "allforwardallbackward"),
    "zb_h1": ("zb1p", "zbh1", "zerobubble", "zb"),
    "zb_h2": ("zb2p", "zbh2"),
    "zb_v": ("zbv", "zbvzerobubble"),
    "interleaved_zero_bubble": ("interleavedzb",),
    "looped_bfs": ("bfs", "loopedbfs", "breadthfirst"),
    "v_half": ("vhalf", "vmin", "vshape", "v"),
    "dualpipe_v": ("dualpipev",),
    "deepseek_v3": ("deepseek", "dsv3"),
    "moe_1f1b": ("moe", "kimi"),
}
"""What others call a schedule, in small letters without anything between."""


def meant(name: str) -> str | None:
    """The schedule that goes by this name elsewhere (`1F1B`, `ScheduleZBVZeroBubble`), or has one
    like it."""
    plain = re.sub(r"[\W_]", "", name.lower()).removeprefix("schedule")
    for own in names():
        if plain == own.replace("_", "") or plain in CALLED.get(own, ()):
            return own
    return nearest(name, names())


def unknown(name: str, near: str | None) -> str:
    """That neither a file nor a schedule is called so, and what may be meant."""
    what = f"there is no file `{name}`, and the library has no schedule of this name"
    return (
        f"{what}; did you mean `{near}`?" if near else f"{what}; `stretto list` shows the library"
    )


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
