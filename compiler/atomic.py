"""Files that are written whole or not at all, by whoever writes one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to that takes the place of `path` once all of it is on disk, and is gone when
    anything fails. A file that it replaces keeps its permissions. What is no regular file (a pipe,
    a device) is written to as it is. Raises `OSError`."""
    if path.exists() and not path.is_file():
        with open(path, "wb") as file:
            yield file
        return
    target = path.resolve()
    beside = target.with_name(f".{target.name}.{os.urandom(4).hex()}")
    with open(beside, "xb") as file:
        try:
            if target.exists():
                os.chmod(beside, target.stat().st_mode & 0o777)
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(beside, target)
        except BaseException:
            beside.unlink()
            raise
