"""`stretto warm`: compile the search's loops now, so that no search has to wait for them."""

import sys
from argparse import ArgumentParser, Namespace

from stretto.compiler.commands import files

EXAMPLES = """\
  stretto warm          # once per machine, after installing"""


def add(parser: ArgumentParser) -> None:
    """No flags of its own."""
    parser.set_defaults(outputs=())


def run(chosen: Namespace) -> int:
    """Compile what is not kept yet."""
    from stretto.compiler.order.kept import SETS, kept
    from stretto.compiler.order.kernels.jit import available, loops_folder
    from stretto.compiler.order.warm import warm

    if not available():
        raise files.Unusable(
            "there is nothing to compile without the extra `solve` (pip install 'stretto[solve]')"
        )
    if not all(kept(name) for name in SETS):
        files.say("compiling the search's loops, once per machine: some 20 seconds of one core")
        try:
            done = warm(SETS)
        except OSError as error:
            raise files.Unusable(
                f"compiled loops cannot be kept: {error.strerror or error} (see XDG_CACHE_HOME)"
            ) from None
        if not done:
            raise files.Unusable("another process is compiling them already")
    print(f"the search's loops are compiled, in {loops_folder()}", file=sys.stdout)
    return 0
