"""A text that the chosen system's reader cannot read → the systems that write such cells."""

from collections.abc import Sequence

from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.diagnostics.wording import joined
from stretto.compiler.imports.readers import READERS

LOOKED_AT = 10_000  # characters; of a cut line the last cell may be half of one


def systems_of(source: Source) -> list[str]:
    """The systems whose reader finds computations in the beginning of the text, and nothing that it
    does not know."""
    head = source.text[:LOOKED_AT]
    if len(head) < len(source.text):
        head = head[: max(head.rfind(","), head.rfind("\n"), 0)]
    beginning = Source(source.name, head)
    return [name for name in READERS if _reads(name, beginning)]


def flags_of(systems: Sequence[str]) -> str:
    """What has their tables read: "`--from primus` or `--from jaxpp`"."""
    return joined([f"`--from {system}`" for system in systems], "or")


def _reads(name: str, source: Source) -> bool:
    try:
        table = READERS[name](source, LOOKED_AT, None)
    except Rejected:
        return False
    return any(table.rows) and not table.faults
