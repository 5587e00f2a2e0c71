"""Makes `docs/glossary.md` from `docs/glossary.toml`: a table per group of words."""

import tomllib
from pathlib import Path
from typing import Required, TypedDict

from stretto.compiler.order.engines.table import ENGINES

TABLE = Path(__file__).parent / "glossary.toml"
HEAD = """# Glossary

<!-- made from docs/glossary.toml by `make docs` -->

One word for one thing, in schedule files, in the code and in messages; and what others call it. Where a cell is empty they have no name for it, or we know of none. PyTorch is `torch.distributed.pipelining` 2.13, Megatron-LM its `megatron.core`; the papers are PipeDream and DAPPLE (1F1B), GPipe, Megatron-LM's interleaving, Zero Bubble (ZB-H1, ZB-H2, ZB-V) and its controllable memory (V-Min, V-Half), BPipe, Chimera, Hanayo, DualPipe, Seq1F1B, TeraPipe and SlimPipe.
"""  # noqa: E501


class Term(TypedDict, total=False):
    """A word of the table; `docs/glossary.toml` says what the keys mean."""

    word: Required[str]
    means: Required[str]
    types: list[str]
    pytorch: str
    megatron: str
    papers: str


class Group(TypedDict):
    """Words that belong together, under one heading."""

    title: str
    term: list[Term]


def groups() -> list[Group]:
    """The table, as it stands in the file."""
    found: list[Group] = tomllib.loads(TABLE.read_text("utf-8"))["group"]
    return found


def glossary() -> str:
    """The whole page."""
    return HEAD + "".join(map(section, groups())) + engines()


def engines() -> str:
    """The engines by the compiler's own table, with their other names."""
    papers: dict[str, str] = tomllib.loads(TABLE.read_text("utf-8"))["engines"]
    lines = [f"\n## Engines\n\n| engine | also called | what it does | papers |\n{'| --- ' * 4}|\n"]
    for engine in ENGINES:
        also = ", ".join(f"`{name}`" for name in engine.aliases)
        cells = f"**{engine.name}**", also, engine.summary, papers.get(engine.name, "")
        lines.append(f"| {' | '.join(cells)} |\n".replace("|  |", "| |"))
    return "".join(lines)


def section(group: Group) -> str:
    """A group as a Markdown table."""
    rows = (
        ["word", "means", "PyTorch", "Megatron-LM", "papers"],
        ["---"] * 5,
        *map(row, group["term"]),
    )
    lines = [
        f"| {' | '.join(cells)} |\n".replace("|  |", "| |").replace("|  |", "| |") for cells in rows
    ]
    return f"\n## {group['title']}\n\n{''.join(lines)}"


def row(term: Term) -> list[str]:
    """The cells of a word: itself with the types of the code that are this thing, its meaning, and
    its other names."""
    types = "".join(f" (`{name}`)" for name in term.get("types", []))
    others = term.get("pytorch", ""), term.get("megatron", ""), term.get("papers", "")
    return [
        cell.replace("|", "\\|") for cell in (f"**{term['word']}**{types}", term["means"], *others)
    ]
