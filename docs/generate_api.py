"""Makes the reference of the Python API, `docs/api.md` and a page per room in `docs/api/`, from
signatures and docstrings. griffe reads them out of the source: nothing is imported, and a signature
looks as it is written, on every Python.

A room offers the names of its face (its `__init__`): those in `__all__`, or where that is computed
those that the face defines or imports for type checkers.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import griffe

ROOT = Path(__file__).parent.parent
WIDTH = 92

# Along the line of values; other rooms come after these.
LINE = [
    *(
        "driver",
        "library",
        "atomic",
        "language",
        "evaluation",
        "problem",
        "order",
        "program",
        "proof",
    ),
    *("bounds", "plan", "certificate", "analysis", "show", "diagnostics", "commands"),
]
HEAD = """# Python API

<!-- made from the docstrings by `make docs` -->

What each room offers to others, from the text of a schedule to its run. Times are in ticks and sizes in grains unless a name says otherwise: see the [glossary](glossary.md). `Plan.summary()` has a plan's figures in the units of its schedule. `stretto.compiler` has the functions of the line by themselves, so that `from stretto.compiler import compile_file` will do.

| room | what it is |
| --- | --- |
"""  # noqa: E501


def api() -> Iterator[tuple[str, str]]:
    """Every page: its path below `docs/` and its text."""
    rows = ""
    for room in [*rooms("stretto.compiler"), *rooms("stretto.runtime")]:
        name = room.path.removeprefix("stretto.")
        rows += f"| [`{room.path}`](api/{name}.md) | {sentence(room)} |\n"
        yield f"api/{name}.md", page(room)
    yield "api.md", HEAD + rows


def rooms(package: str) -> Iterator[griffe.Module]:
    """A package and the rooms in it, those of the line first."""
    # The link tree that `make install` lays for type checkers has the names of the imports.
    loaded = griffe.load(package, search_paths=[ROOT / "build/types"], allow_inspection=False)
    assert isinstance(loaded, griffe.Module)
    yield loaded
    inner = {one.name: one for one in below(loaded) if one.is_package or one.name in LINE}
    line = [name for name in LINE if name in inner]
    for name in [*line, *sorted(inner.keys() - line)]:
        yield inner[name]


def below(room: griffe.Module) -> list[griffe.Module]:
    """The modules in a folder, without those that it only imports."""
    return [one for _, one in sorted(room.members.items()) if isinstance(one, griffe.Module)]


def page(room: griffe.Module) -> str:
    """A room: what its face says, what it offers, and which modules it has."""
    text = f"# {room.path}\n\n<!-- made from the docstrings by `make docs` -->\n\n{prose(room)}\n"
    for member in offered(room):
        text += f"\n## {member.name}\n\n```python\n{code(member)}\n```\n\n{prose(member)}\n"
        if isinstance(member, griffe.Class):
            text += "".join(map(method, methods(member)))
    inner = list(modules(room))
    if inner:
        text += "\n## Modules\n\n| module | what it is |\n| --- | --- |\n"
        for one in inner:
            text += f"| `{one.path.removeprefix(room.path + '.')}` | {sentence(one)} |\n"
    return text


def offered(room: griffe.Module) -> Iterator[griffe.Object]:
    """The names of a room's face, as they are defined, in the sequence of `__all__` or the file."""
    static = [str(name) for name in room.exports or ()]
    for name in static or [name for name in room.members if name[0] != "_"]:
        member = room.members.get(name)
        if isinstance(member, griffe.Alias):
            ours = member.target_path.startswith("stretto.") and (static or not member.runtime)
            member = member.final_target if ours else None
        if isinstance(member, griffe.Function | griffe.Class | griffe.Attribute):
            yield member


def modules(room: griffe.Module) -> Iterator[griffe.Module]:
    """The modules below a room, as deep as they lie. Those that are rooms have a page instead."""
    for one in below(room):
        if room.path.count(".") > 1 or not (one.is_package or one.name in LINE):
            yield one
            yield from modules(one)


def code(member: griffe.Object) -> str:
    """A name as a stub file would have it."""
    if isinstance(member, griffe.Function):
        return signature(member)
    if isinstance(member, griffe.Class):
        bases = ", ".join(str(base) for base in member.bases)
        lines = [f"class {member.name}({bases}):" if bases else f"class {member.name}:"]
        lines += [f"    {code(field)}" for field in fields(member)]
        made = member.members.get("__init__")
        if isinstance(made, griffe.Function) and "dataclass" not in member.labels:
            lines = [line.split(" = ")[0] for line in lines]  # set in there
            lines += [f"    {line}" for line in signature(made).split("\n")]
        return "\n".join(lines if len(lines) > 1 else [f"{lines[0]} ..."])
    if isinstance(member, griffe.Attribute) and member.annotation is not None:
        default = f" = {member.value}" if member.value is not None else ""
        return f"{member.name}: {member.annotation}{default}"
    value = str(getattr(member, "value", "..."))
    return f"{member.name} = {value if len(value) < WIDTH else '...'}"


def fields(owner: griffe.Class) -> list[griffe.Attribute]:
    """The public fields of a class, in the sequence of its definition."""
    own = owner.members.values()
    found = [m for m in own if isinstance(m, griffe.Attribute) and m.name[0] != "_"]
    return [m for m in found if m.annotation is not None and "instance-attribute" in m.labels]


def methods(owner: griffe.Class) -> list[griffe.Object]:
    """Public methods, class methods and properties."""
    called = [m for m in owner.members.values() if isinstance(m, griffe.Function)]
    attributes = [m for m in owner.members.values() if isinstance(m, griffe.Attribute)]
    read = [m for m in attributes if "property" in m.labels]
    return [m for m in [*read, *called] if m.name[0] != "_"]


def method(member: griffe.Object) -> str:
    """An item of the list below a class."""
    shown = signature(member, 9999) if isinstance(member, griffe.Function) else code(member)
    words = " ".join(prose(member).split())
    return f"\n- `{shown}`" + (f": {words}\n" if words else "\n")


def signature(function: griffe.Function, width: int = WIDTH) -> str:
    """`def name(…) -> …`, a parameter per line where it is longer than `width`."""
    inner = list(parameters(function))
    back = f" -> {function.returns}" if function.returns is not None else ""
    line = f"def {function.name}({', '.join(inner)}){back}"
    if len(line) <= width:
        return line
    return f"def {function.name}(\n" + "".join(f"    {one},\n" for one in inner) + f"){back}"


def parameters(function: griffe.Function) -> Iterator[str]:
    """The parameters as they are written, `*` and `/` between them where they stand."""
    seen: griffe.ParameterKind | None = None
    kinds = griffe.ParameterKind
    marks: dict[griffe.ParameterKind | None, str]
    marks = {kinds.var_positional: "*", kinds.var_keyword: "**"}
    for one in function.parameters:
        if one.name in ("self", "cls"):
            continue
        if seen is kinds.positional_only and one.kind is not kinds.positional_only:
            yield "/"
        if one.kind is kinds.keyword_only and seen not in (
            kinds.keyword_only,
            kinds.var_positional,
        ):
            yield "*"
        seen = one.kind
        stars = marks.get(one.kind, "")
        kind = f": {one.annotation}" if one.annotation is not None else ""
        equals = " = " if kind else "="
        default = f"{equals}{one.default}" if one.default is not None and not stars else ""
        yield f"{stars}{one.name}{kind}{default}"


def prose(member: griffe.Object) -> str:
    """The docstring, which is Markdown."""
    return member.docstring.value.strip() if member.docstring else ""


def sentence(member: griffe.Object) -> str:
    """The docstring's first sentence, for a cell of a table."""
    words = " ".join(prose(member).split("\n\n")[0].split()).replace("|", "\\|")
    return re.split(r"(?<=[.?]) (?=[A-Z`])", words)[0]
