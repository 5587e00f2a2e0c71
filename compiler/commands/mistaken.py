"""Words of a command line that stretto has not got: what was probably meant by them. What users of
torchrun, Megatron-LM and other compilers type first is in a table; the rest is told by its kind.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from stretto.compiler import library
from stretto.compiler.commands import COMMANDS
from stretto.compiler.diagnostics.suggest import nearest

RANKS = (
    *("ranks", "num-ranks", "pp", "pp-size", "pp-degree", "pipeline-parallel-size", "p"),
    *("pipeline-model-parallel-size", "world-size", "nproc", "nproc-per-node", "np", "devices"),
    *("num-devices", "gpus", "ngpus", "num-gpus", "num-pipeline-stages", "workers"),
)
MICROBATCHES = (
    *("microbatches", "micro-batches", "num-microbatches", "num-micro-batches", "n-microbatches"),
    *("num-micro-batch", "num-microbatch", "chunks-per-batch", "gradient-accumulation-steps", "m"),
)
CHUNKS = (
    *("chunks", "num-chunks", "num-model-chunks", "virtual-stages", "vpp", "vp-size"),
    *("virtual-pipeline-model-parallel-size", "num-virtual-stages-per-pipeline-rank"),
)
STAGES = ("stages", "num-stages", "n-stages", "stages-per-rank", "num-layers")
MEMORY = ("memory", "max-memory", "memory-limit", "mem-limit", "limit")
SECONDS = ("timeout", "time", "seconds", "limit-time", "max-time")
OUTPUT = ("o", "out", "outfile", "out-file", "output", "output-file", "save", "to")

NUMBER = r"\d[\d./eE+-]*(?:[KMGT]iB)?"


def unknown(
    flags: Sequence[str], left: Sequence[str], typed: Sequence[str], formats: Sequence[str]
) -> str:
    """What is wrong with the words that are `left` of those `typed` for a command that has these
    long flags; `formats`: names of its `--format`, if it has that."""
    dashed = [word for word in left if word.startswith("-") and len(word) > 1]
    if dashed:  # what else is left may be the value of one of them
        return "; ".join(_flag(word, flags, _value(word, typed), formats) for word in dashed)
    first = next((word for word in typed if word in formats and not os.path.exists(word)), None)
    if first is not None:  # taken for a file
        return f"did you mean `--format {first}`?"
    return "; ".join(_word(word, flags) for word in left)


def _value(word: str, typed: Sequence[str]) -> str:
    """What was typed for the value of this flag, "" if nothing was."""
    _, is_there, value = word.partition("=")
    if is_there or word not in typed:
        return value
    after = typed[typed.index(word) + 1 :]
    return after[0] if after and not after[0].startswith("-") else ""


def _flag(word: str, flags: Sequence[str], value: str, formats: Sequence[str]) -> str:
    name = word.partition("=")[0]
    return f"there is no flag `{name}`{_meant(name, flags, value, formats)}"


def _meant(name: str, flags: Sequence[str], value: str, formats: Sequence[str]) -> str:
    """What stands behind `there is no flag …`."""
    bare = name.lstrip("-").replace("_", "-").lower()
    number = value if re.fullmatch(NUMBER, value) else ""
    for names, meant in TABLE:
        if bare in names and (said := meant(flags, number)):
            return f"; {said}"
    if bare in formats:
        return f"; did you mean `--format {bare}`?"
    near = nearest(name, flags)
    if number and "--set" in flags and (near is None or near[2:3] != bare[:1]):
        return f"; a `param` of the file is set with `--set {bare.replace('-', '_')}={number}`"
    return f"; did you mean `{near}`?" if near else ""


def _setting(name: str, common: str, words: str = "") -> Callable[[Sequence[str], str], str]:
    def meant(flags: Sequence[str], number: str) -> str:
        if "--set" not in flags:
            return ""
        return f"sizes are set by name, `--set {name}={number or common}`{words}"

    return meant


def _stages(flags: Sequence[str], number: str) -> str:
    if "--set" not in flags:
        return ""
    return (
        "the file says how many stages there are, of `ranks` (`--set ranks=8`) or a `param` of its "
        "own (`--set chunks=2`)"
    )


def _output(flags: Sequence[str], number: str) -> str:
    if "--output" in flags:
        return "did you mean `-o`?"
    return "this one prints; `stretto compile FILE -o PLAN` and `show FILE -o PICTURE` write files"


def _json(flags: Sequence[str], number: str) -> str:
    return "did you mean `--json`?" if "--json" in flags else ""


def _verbose(flags: Sequence[str], number: str) -> str:
    return "`-v` stands before the command: `stretto -v …`"


def _seconds(flags: Sequence[str], number: str) -> str:
    return "did you mean `--time-limit`?" if "--time-limit" in flags else ""


TABLE: tuple[tuple[tuple[str, ...], Callable[[Sequence[str], str], str]], ...] = (
    (RANKS, _setting("ranks", "8", "; each rank is a process")),
    (MICROBATCHES, _setting("microbatches", "16")),
    (CHUNKS, _setting("chunks", "2", ", where the file has that `param`")),
    (MEMORY, _setting("memory", "4", ", where the file has that `param`")),
    (STAGES, _stages),
    (OUTPUT, _output),
    (SECONDS, _seconds),
    (("format", "as-json"), _json),
    (("v", "verbose", "debug"), _verbose),
)
"""Names of flags without their dashes, and what is said of them, if anything, where a command has
these flags and this number was typed."""


def _word(word: str, flags: Sequence[str]) -> str:
    """What is wrong with a word behind all that the command takes."""
    many = f"`{word}` is one word too many"
    if "--output" in flags and Path(word).suffix and not os.path.exists(word):
        return f"{many}; did you mean `-o {word}`?"
    if "--set" in flags and re.fullmatch(NUMBER, word):
        return f"{many}; sizes are set by name, such as `--set ranks={word}`"
    if word in COMMANDS:
        return f"{many}; one command at a time"
    return many


def no_command(word: str, typed: Sequence[str]) -> str:
    """What is wrong with a first word that is no command."""
    known = library.has(word) or os.path.isfile(word)
    near = nearest(word, COMMANDS)
    if near and not known:
        return f"there is no command `{word}`; did you mean `{near}`?"
    if known:
        later = next((one for one in typed if one in COMMANDS), "show")
        return f"the command comes first, then the file: `stretto {later} {word}`"
    return f"there is no command `{word}`"
