"""`stretto new NAME`: a schedule file to start from, and its text on stdout. Never writes over a
file."""

import re
from argparse import ArgumentParser, Namespace
from pathlib import Path

from stretto.compiler import library
from stretto.compiler.atomic import atomic_write
from stretto.compiler.commands import files
from stretto.compiler.diagnostics.suggest import nearest

START = """\
# What this schedule is for. `stretto check {name}.pipe` proves it, `stretto show` draws it.
schedule {name}

ranks 4                        # pipeline ranks; `--set ranks=8` overrides it
microbatches 8                 # micro-batches per step

pipeline main {{                # micro-batches go through a chain of stages, one per rank
  stages ranks
  place s -> s
}}

cost F = 1                     # any unit; `cost F[0] = 3/2` for one stage
cost B = 2                     # `split B into I, W` makes of it input and weight gradient

# What every rank does, in its order. F is the next forward of this rank's stage, B the next
# backward. Leave the block out and the compiler finds an order, within a
# `limit activations <= 4` if there is one.
order rank r {{
  let warmup = min(microbatches, ranks - 1 - r)   # forwards before the first backward comes back
  repeat warmup                {{ F }}
  repeat microbatches - warmup {{ F; B }}
  repeat warmup                {{ B }}
}}
"""

EXAMPLES = """\
  stretto new mine
  stretto new mine --from dualpipe"""


def add(parser: ArgumentParser) -> None:
    """The flags of `new`."""
    parser.add_argument(
        "name", metavar="NAME", help="name of the schedule; the file will be NAME.pipe"
    )
    parser.add_argument(
        "--from",
        dest="origin",
        metavar="SCHEDULE",
        help="start from this schedule of the library (default: a commented 1F1B)",
    )


def run(chosen: Namespace) -> int:
    """Write the file, and show it."""
    name: str = chosen.name.removesuffix(".pipe")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", Path(name).name):
        raise files.Unusable(f"`{chosen.name}` is no name: letters, digits and `_`")
    text = START.format(name=Path(name).name)
    if chosen.origin:
        text = renamed(original(chosen.origin), Path(name).name)
    path = Path(f"{name}.pipe")
    if not path.parent.is_dir():
        raise files.Unusable(f"cannot write `{path}`: there is no folder `{path.parent}`")
    with files.guarded(str(path)):
        try:
            with atomic_write(path, new=True) as file:
                file.write(text.encode())
        except FileExistsError:
            raise files.Unusable(f"`{path}` is there already, and stays as it is") from None
    print(text, end="")
    files.say(f"wrote {path}; `stretto show {path}` draws it")
    return 0


def original(name: str) -> str:
    """The text of the library's schedule of this name. Raises `Unusable` if there is none."""
    if library.has(name):
        return library.read(name).text
    near = nearest(name, library.names())
    hint = f"did you mean `{near}`?" if near else "`stretto list` shows them"
    raise files.Unusable(f"no schedule `{name}` ships; {hint}")


def renamed(text: str, name: str) -> str:
    """The text as a schedule of another name."""
    return re.sub(r"(?m)^(\s*schedule\s+)\w+", rf"\g<1>{name}", text, count=1)
