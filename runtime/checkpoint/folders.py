"""Where checkpoints are: a folder for each step below one, `step-00000120`. One that is being
written is called `step-00000120.partial`, and renamed when it is whole; what a run that was killed
has left of it is removed by the next."""

import os
import re
import shutil
from pathlib import Path

NAME = re.compile(r"step-(\d{8,})")


def folder_of(root: Path, step: int) -> Path:
    """That of a step."""
    return root / f"step-{step:08d}"


def partial_of(root: Path, step: int) -> Path:
    """Where that of a step is written."""
    return root / f"step-{step:08d}.partial"


def steps_in(root: Path) -> list[int]:
    """The steps of which a whole checkpoint is there, ascending."""
    if not root.is_dir():
        return []
    matches = [NAME.fullmatch(entry.name) for entry in root.iterdir() if entry.is_dir()]
    steps = [int(match[1]) for match in matches if match]
    names = {match[0] for match in matches if match}
    return sorted(step for step in steps if folder_of(root, step).name in names)


def begin(root: Path, step: int) -> Path:
    """An empty folder to write to. Raises `OSError`."""
    partial = partial_of(root, step)
    root.mkdir(parents=True, exist_ok=True)
    for entry in root.glob("step-*.partial"):
        _remove(entry)
    partial.mkdir(exist_ok=True)  # another process may have come first
    return partial


def finish(root: Path, step: int, keep: int) -> Path:
    """The written folder under its own name, and of all but the newest `keep` no more. A checkpoint
    of the same step that was there is replaced. Raises `OSError`."""
    partial, final = partial_of(root, step), folder_of(root, step)
    _sync(partial)
    if os.path.lexists(final):
        os.replace(final, root / f"{final.name}.replaced.partial")
    os.replace(partial, final)
    _sync(root)
    for entry in root.glob("step-*.partial"):
        _remove(entry)
    for old in steps_in(root)[:-keep]:
        _remove(folder_of(root, old))
    return final


def _remove(entry: Path) -> None:
    """Of a link the link alone: what it leads to is kept elsewhere on purpose."""
    if entry.is_symlink() or not entry.is_dir():
        entry.unlink()
    else:
        shutil.rmtree(entry)


def _sync(folder: Path) -> None:
    """What was written into the folder outlasts a loss of power."""
    for entry in [*folder.iterdir(), folder]:
        if entry != folder and (entry.is_symlink() or not entry.is_file()):
            continue
        handle = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
