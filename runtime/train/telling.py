"""Who tells the user why a training ended: of all ranks the first that knows, once, the traceback
of the user's own code before the sentence. `stretto run` has given a folder and prints the sentence
itself, when all has ended and nothing can come behind it."""

import json
import os
import re
import threading
import time
from pathlib import Path

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.diagnostics.printable import told
from stretto.runtime.aloud import say
from stretto.runtime.coordination.failure import named
from stretto.runtime.coordination.store import Store
from stretto.runtime.errors import PipelineError, spelled
from stretto.runtime.leave import to_stderr
from stretto.runtime.train.traces import trace_of

FOLDER = "STRETTO_RUN"  # the variable with the folder that `stretto run` has made
SENTENCE = "error.txt"  # what it then prints
QUOTE = re.compile(r"rank \d+ stops: ")  # how a rank tells of another that has failed
FIRST = 1.5  # seconds that such a rank leaves to that one, which has a traceback to show
PATIENCE = 2.0  # seconds in which the store says whether another rank was first


def sentence_of(error: BaseException, rank: int) -> str:
    """What to print of an error: with the rank, unless it names ranks itself."""
    if isinstance(error, Rejected):
        return "\n".join(diagnostic.message for diagnostic in error.diagnostics)
    if not isinstance(error, PipelineError | OSError):
        return f"rank {rank} fails: {spelled(error)}"
    return named(rank, str(error))


class ErrorTeller:
    """`store`: where the ranks of one start meet, once it is there; before, every rank tells."""

    def __init__(self) -> None:
        self.store: Store | None = None
        self.over = False

    def tell(
        self, message: str, cause: BaseException | None = None, *, whole: bool = False
    ) -> None:
        """Unless another rank has told, or this one. `cause`: what the user's own code raised; of
        an error of which that is not known the `whole` traceback is shown."""
        if self.over:
            return
        self.over = True
        if quotes := QUOTE.match(message):
            time.sleep(FIRST)
            message = message[quotes.end() :]
        folder = os.environ.get(FOLDER)
        if not (_first_in(folder, message) if folder else self._first()):
            return
        if cause is not None:
            trace = trace_of(cause, message, whole=whole)
            if trace:
                say(trace)
        if not folder or not _attempt()[1]:  # the ranks are started again: it is not the last word
            to_stderr(message)
        _record(message)

    def _first(self) -> bool:
        """Whether no rank has told before. A store that is lost or silent cannot say."""
        if self.store is None:
            return True
        store, found = self.store, list[bool]()

        def ask() -> None:
            try:
                found.append(store.first("told"))
            except Exception:  # it is gone
                found.append(True)

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(PATIENCE)
        return not found or found[0]


def _first_in(folder: str, message: str) -> bool:
    """Leaves the message in the folder unless one is there: whole, then under its name."""
    attempt, last = _attempt()
    draft = Path(folder, f"{os.getpid()}.txt")
    try:
        draft.write_text(message, errors="replace")
        os.link(draft, Path(folder, SENTENCE if last else f"{attempt}.{SENTENCE}"))
    except FileExistsError:
        return False
    except OSError:  # the folder is gone: so is `stretto run`
        to_stderr(message)
    return True


def _attempt() -> tuple[int, bool]:
    """Which of torchrun's attempts this is, from 0, and whether it is the last."""
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    return attempt, attempt >= int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))


def _record(message: str) -> None:
    """Writes torchrun's error file: with what its processes left there it ends its own report."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        message = told(message)
        more = {"py_callstack": f"error: {message}", "timestamp": str(int(time.time()))}
        report = {"message": {"message": message, "extraInfo": more}}
        Path(path).write_text(json.dumps(report))
