"""Checkpoints whose files are not what was written. In comes a checkpoint's folder; out come its
numbers, or the name of the file that is missing, cut short or unreadable; and what to do then."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.futures import Future

from stretto.runtime.checkpoint import folders
from stretto.runtime.errors import PipelineError, words_of


class DamagedCheckpoint(PipelineError):
    """A file of the checkpoint is not as it was written."""


class NamingReader(FileSystemReader):
    """Says which file it was that could not be read."""

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """File by file. Raises `DamagedCheckpoint`."""
        files: dict[str, list[ReadItem]] = {}
        for item in plan.items:
            files.setdefault(self.storage_data[item.storage_index].relative_path, []).append(item)
        for name, items in files.items():
            try:
                super().read_data(replace(plan, items=items), planner)
            except Exception as error:  # a damaged file can raise anything
                raise DamagedCheckpoint(
                    f"its file `{name}` cannot be read: {why(error)}"
                ) from error
        done: Future[None] = Future()
        done.set_result(None)
        return done


def read_table(reader: FileSystemReader, where: Path) -> Metadata:
    """What the checkpoint says it has, each of its files being there in full length. Raises
    `DamagedCheckpoint`."""
    try:
        table = reader.read_metadata()
        files: dict[str, int] = {}
        for part in table.storage_data.values():
            end = part.offset + part.length
            files[part.relative_path] = max(end, files.get(part.relative_path, 0))
    except Exception as error:  # as above
        raise DamagedCheckpoint(f"its file `.metadata` cannot be read: {why(error)}") from error
    for name, least in sorted(files.items()):
        try:
            size = (where / name).stat().st_size
        except OSError as error:
            raise DamagedCheckpoint(f"its file `{name}` cannot be read: {why(error)}") from error
        if size < least:
            raise DamagedCheckpoint(f"its file `{name}` has {size} of {least} bytes")
    return table


def compare_files(table: Metadata, written: Mapping[str, Any]) -> None:
    """`written`: by key the word that a process wrote with the checkpoint. Raises
    `DamagedCheckpoint` where files are of several checkpoints."""
    files: dict[str, str] = {}  # by word one that has it
    for index, part in table.storage_data.items():
        if index.fqn in written:
            files.setdefault(str(written[index.fqn]), part.relative_path)
    if len(files) > 1:
        first, second, *_ = sorted(files.values())
        raise DamagedCheckpoint(f"its files `{first}` and `{second}` are of different checkpoints")


def way_out(root: Path, step: int) -> str:
    """What to do about the damaged checkpoint of the step."""
    where = folders.folder_of(root, step)
    for older in reversed([s for s in folders.steps_in(root) if s < step]):
        folder = folders.folder_of(root, older)
        try:
            read_table(FileSystemReader(folder), folder)
        except DamagedCheckpoint:
            continue
        return (
            f"the files of the checkpoint of step {older} are all there: delete {where}, and those "
            f"between, if there are any, so that it is the newest"
        )
    return "there is no older checkpoint with all of its files beside it: begin anew, elsewhere"


def why(error: BaseException) -> str:
    """The first line of what went wrong. What torch wraps so that every rank hears of it is
    raised as it was, if it is what ends a process, as Ctrl-C does."""
    if isinstance(error, CheckpointException):
        first: Any = next(iter(error.failures.values()))[0]
        return why(first)
    if not isinstance(error, Exception):
        raise error
    told = (words_of(error).splitlines() or [""])[0]
    return told if isinstance(error, PipelineError) else f"{type(error).__name__}: {told}"


def is_damage(error: BaseException) -> bool:
    """Whether a file was the cause, be it wrapped by torch."""
    if isinstance(error, CheckpointException):
        return any(is_damage(failure[0]) for failure in error.failures.values())
    return isinstance(error, DamagedCheckpoint)
