"""Pictures, tables and pages of the documents, made from the code: `make docs` writes them,
`python docs/make.py --check` fails where one is not current.

A document marks the place of such a part by `<!-- begin NAME -->` and `<!-- end NAME -->`; `PAGES`
has for each document the function that makes its text anew, from what it is now.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from generate_api import api
from generate_glossary import glossary
from generate_language import language
from generate_schedules import compiled, pictures, schedules
from generate_streams import streams
from generate_tutorial import tutorial

from stretto.compiler.bounds.theorems import table
from stretto.compiler.commands.parsers import commands_of, parser
from stretto.compiler.show import draw

ROOT = Path(__file__).parent.parent
PART = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def main() -> int:
    """Writes what is not current; with `--check` only names it, and fails if there is any."""
    check = "--check" in sys.argv[1:]
    wanted = dict(made())
    stale = [path for path, text in wanted.items() if current(path) != text]
    stale += [path for path in (ROOT / "docs/api").glob("*.md") if path not in wanted]
    for path in stale:
        print(f"{'not current' if check else 'made'}: {path.relative_to(ROOT)}", file=sys.stderr)
        if not check and path in wanted:
            path.parent.mkdir(exist_ok=True)
            path.write_text(wanted[path], "utf-8")
        elif not check:
            path.unlink()  # of a room that is no more
    if check and stale:
        print("`make docs` makes them anew", file=sys.stderr)
    return 1 if check and stale else 0


def current(path: Path) -> str:
    """The text of a file, "" where there is none."""
    return path.read_text("utf-8") if path.exists() else ""


def made() -> Iterator[tuple[Path, str]]:
    """Every file that has something made in it, as it should be."""
    for name, picture in pictures().items():
        yield ROOT / "docs" / name, picture
    yield ROOT / "docs/pictures/readme.svg", draw(compiled("dualpipe", {}), "svg")
    parts = compiled("deepseek_v3", {"ranks": 4, "microbatches": 8})
    yield ROOT / "docs/pictures/streams.svg", draw(parts, "svg")
    yield ROOT / "docs/glossary.md", glossary()
    for name, page in api():
        yield ROOT / "docs" / name, page
    for name, make in PAGES.items():
        yield ROOT / name, make(current(ROOT / name))


def readme(text: str) -> str:
    """The front page: the file whose picture it shows, as it ships."""
    file = current(ROOT / "schedules/dualpipe.pipe")
    return PART.sub(lambda part: f"{part[1]}```pipe\n{file}```\n{part[3]}", text)


def command_line(text: str) -> str:
    """The page of the commands: for each a table of its flags."""
    return PART.sub(lambda part: f"{part[1]}{flags(part[2])}{part[3]}", text)


def contributing(text: str) -> str:
    """The table of rooms: what each may import, as the test of the borders has it."""
    tree = ast.parse(current(ROOT / "tests/repository/test_borders.py"))
    (table,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "ROOMS" and node.value
    )
    rooms: dict[str, set[str]] = ast.literal_eval(table)

    def row(line: re.Match[str]) -> str:
        below = [name for name in rooms if name in rooms[line[2]]]
        words = ", ".join(name.removeprefix("compiler.") for name in below)
        return f"{line[1]} {words} |" if words else f"{line[1]} |"

    first, second = "<!-- rooms -->", "<!-- end of rooms -->"
    before, rest = text.split(first)
    inner, after = rest.split(second)
    inner = re.sub(r"^(\| `([\w.]+)` \|[^|]*\|[^|]*\|).*$", row, inner, flags=re.MULTILINE)
    return before + first + inner + second + after


def flags(command: str) -> str:
    """The flags of a command, from the parser itself. Its own help is laid out differently by
    every version of Python."""
    choices = commands_of(parser())
    choices[command].fill()
    rows = ["", f"`stretto {command}`", "", "| | |", "| --- | --- |"]
    for action in choices[command]._actions:
        if "--help" not in action.option_strings:
            words = "|".join(action.choices) if action.choices else action.metavar or ""
            name = ", ".join(action.option_strings)
            shown = f"{name} {words}".strip().replace("|", "\\|")
            rows.append(f"| `{shown}` | {(action.help or '').replace('%%', '%')} |")
    examples = [
        "",
        "```",
        *(line[2:] for line in (choices[command].epilog or "").splitlines()[1:]),
        "```",
    ]
    return "\n".join([*rows, *examples, "", ""])


def bounds(text: str) -> str:
    """The page of lower bounds: the table of theorems that the compiler reads."""
    return PART.sub(lambda part: f"{part[1]}\n{table()}\n{part[3]}", text)


PAGES: dict[str, Callable[[str], str]] = {
    "CONTRIBUTING.md": contributing,
    "README.md": readme,
    "docs/bounds.md": bounds,
    "docs/cli.md": command_line,
    "docs/language.md": language,
    "docs/schedules.md": schedules,
    "docs/streams.md": streams,
    "docs/tutorial.md": tutorial,
}


if __name__ == "__main__":
    sys.exit(main())
