"""`stretto` on the command line: the commands, and what becomes of what they raise. Each command is
a file of `commands/`, which declares its own flags and is loaded when it is asked for. This module
itself loads nothing, so that Ctrl-C is caught almost from the first instant on.

Data goes to stdout, talk to stderr. Exit codes: 0 done, 1 the user's file or plan is wrong, 2 usage
or input that cannot be read, 70 a bug of ours, 128 and more: ended by a signal, 130 interrupted.
"""

import gc
import os
import sys
from time import CLOCK_BOOTTIME, clock_gettime, monotonic, process_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence
    from typing import TextIO

SLACK = 1.1  # of a limit of time, before more is told
DONE, WRONG, USAGE, BUG, INTERRUPTED, PIPE, TERMINATED = 0, 1, 2, 70, 130, 141, 143
RARELY = 200_000
"""So many objects more than before, and the garbage collector looks through a process of ours: what
a command loads stays, and to look through that again and again takes as long as a proof."""


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Run one command and return its exit code. `arguments`: those of the process by default."""
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()
    own = arguments is None  # the process is ours
    if own:
        _leave_when_interrupted()
        gc.set_threshold(RARELY)
    try:
        code = _main(arguments)
        if own:
            gc.freeze()  # before it ends Python would look through all of them once more
        return code
    except KeyboardInterrupt:  # just before the end
        sys.stderr.write("stretto: interrupted\n")
        return INTERRUPTED


def _leave_when_interrupted() -> None:
    """Until a command begins, which may have something to keep, Ctrl-C ends the process at once: an
    exception inside a module that is loaded, of C not least, does not always come out as one."""
    from signal import SIGINT, default_int_handler, getsignal, signal

    if getsignal(SIGINT) is default_int_handler:
        signal(SIGINT, _leave)


def _command_begins() -> None:
    from signal import SIGINT, default_int_handler, getsignal, signal

    if getsignal(SIGINT) is _leave:
        signal(SIGINT, default_int_handler)


def _leave(*_: object) -> None:
    try:
        os.write(2, b"stretto: interrupted\n")
    finally:
        os._exit(INTERRUPTED)


def _main(arguments: "Sequence[str] | None") -> int:
    from stretto.compiler.commands import screen

    screen.prepare(sys.stdout, sys.stderr)
    began = monotonic() if arguments is not None else _started()
    try:
        code = _run(_parsed(arguments), began)
        sys.stdout.flush()
    except BrokenPipeError:
        code = PIPE
    except KeyboardInterrupt as error:
        _say("stretto: interrupted")
        code = INTERRUPTED if type(error) is KeyboardInterrupt else TERMINATED
    except OSError as error:
        code = USAGE
        _say(
            f"stretto: {f'`{error.filename}`' if error.filename else 'standard output'}: "
            f"{error.strerror or error}"
        )
    for stream in (sys.stdout, sys.stderr):
        _given_up(stream)
    return code


def _started() -> float:
    """The second of `monotonic` at which this process began, which limits of time count from."""
    from contextlib import suppress

    with suppress(OSError, ValueError, IndexError, AttributeError):
        with open("/proc/self/stat") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        age = clock_gettime(CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return monotonic() - max(0.0, age)
    return monotonic() - process_time()


def _say(words: str) -> None:
    from stretto.compiler.commands.files import say

    say(words)


def _given_up(stream: "TextIO") -> None:
    """What a stream could not be given is forgotten: it would be tried again at the very end, and
    told by a traceback."""
    try:
        stream.flush()
    except OSError:
        from contextlib import suppress

        with suppress(OSError, ValueError):  # a stream without a descriptor
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _nowhere() -> "TextIO":
    """Stands in for a stream that is closed, as `>&-` leaves it."""
    return open(os.devnull, "w")


def _parsed(arguments: "Sequence[str] | None") -> "Namespace":
    """The command line. A `NAME=VALUE` in the place of a file, or where nothing belongs, is taken
    for a second value of a `--set`, and refused as such."""
    import re

    from stretto.compiler.commands import COMMANDS
    from stretto.compiler.commands.parsers import commands_of, parser, unknown

    top = parser()
    words = sys.argv[1:] if arguments is None else list(arguments)
    if not words:
        top.print_help(sys.stderr)
        top.exit(USAGE)
    first = next((word for word in words if not word.startswith("-")), None)
    if first is not None and first not in COMMANDS:
        from stretto.compiler.commands.mistaken import no_command

        top.error(no_command(first, words))
    chosen, left = top.parse_known_args(words)
    own = commands_of(top)[chosen.command]
    named = getattr(chosen, "files", [getattr(chosen, "file", "")])
    for word in (*left, *named):
        if re.match(r"[A-Za-z_]\w*=", word) and not os.path.exists(word):
            from stretto.compiler.commands.flags import ONE_EACH

            own.error(f"{ONE_EACH}: --set {word}")
    if left:
        own.error(unknown(own, left, words))
    return chosen


def _run(chosen: "Namespace", began: float) -> int:
    """Run the command. What it raises becomes a message and an exit code."""
    from stretto.compiler.commands.files import Unusable, say
    from stretto.compiler.commands.interrupts import Interrupts
    from stretto.compiler.commands.outputs import check

    chosen.began, chosen.interrupts = began, Interrupts()
    _command_begins()
    try:
        check(chosen)
        if chosen.command == "run":
            code: int = chosen.run(chosen)
            return code
        with chosen.interrupts.caught():
            code = chosen.run(chosen)
        _late(chosen)
        return code
    except Unusable as error:
        first, *more = error.args
        say(f"stretto: {first}", *more)
        return USAGE
    except (OSError, KeyboardInterrupt):
        raise
    except MemoryError:
        say("stretto: there is not enough memory here for a step of this size")
        return USAGE
    except Exception as error:
        return _failed(error, chosen)


def _late(chosen: "Namespace") -> None:
    """A word where a limit of time was not kept: only a search gets shorter with it."""
    limit, took = getattr(chosen, "time_limit", None), monotonic() - chosen.began
    if limit is not None and took > SLACK * limit:
        from stretto.compiler.commands.files import say

        say(
            f"this took {took:.1f} s, and --time-limit says {limit:g}: what stands around a search "
            "(reading, proof, certificate, writing) takes what it takes"
        )


def _failed(error: Exception, chosen: "Namespace") -> int:
    """Report what a command raised: diagnostics of the user's file, or a bug."""
    from stretto.compiler.commands.files import say
    from stretto.compiler.diagnostics.diagnostic import Rejected

    if isinstance(error, Rejected):
        from stretto.compiler.commands.report import report

        report(error.diagnostics, getattr(error, "sources", ()))
        return WRONG
    if chosen.verbose:
        import traceback

        from stretto.compiler.diagnostics.printable import printable

        print(printable("".join(traceback.format_exception(error))), file=sys.stderr)
    say(
        f"stretto: this is a bug in stretto: {type(error).__name__}: {error}",
        "Please report it with the command and the file; `-v` before the command shows where.",
    )
    return BUG


if __name__ == "__main__":
    sys.exit(main())
