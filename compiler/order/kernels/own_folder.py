"""Whether a folder is the user's own. Compiled loops are pickles and machine code, which are run as
they are read: so they are read from no folder into which somebody else could have put them."""

import os
import stat
from pathlib import Path


def shared(folder: Path) -> Path | None:
    """Of the folder and those above it the first that somebody else than its user, or the system's
    administrator, may write; None where there is none. What is not there yet nobody has written.

    A folder in which only owners may remove entries (`/tmp`) is right above others, since those are
    looked at too. A group that has the user's own number is his alone, as most systems make it.
    Raises `OSError` where a folder cannot be looked at."""
    administrators = {os.stat("/").st_uid, 0}  # another number in a namespace of users
    real = folder.resolve()
    for one in dict.fromkeys((folder, *folder.parents, real, *real.parents)):
        try:
            found = one.stat()
        except FileNotFoundError:
            continue
        others = stat.S_IWOTH | (0 if found.st_gid in (os.getuid(), 0) else stat.S_IWGRP)
        sticky = found.st_mode & stat.S_ISVTX and one not in (folder, real)
        if found.st_uid not in {os.getuid(), *administrators}:
            return one
        if found.st_mode & others and not sticky:
            return one
    return None
