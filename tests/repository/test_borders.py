"""Imports follow the line of the design. `ROOMS` is the house: a folder of `compiler/`, or a module
that stands alone there, and the rooms it may know. Within a room modules form no circle either."""

import importlib
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from types import ModuleType

import pytest

from tests.repository.sources import imports, loaded, modules, ours, tree

# From the bottom up: a room may know rooms above it in this table, and of those the ones named.
ROOMS: dict[str, set[str]] = {
    "grammar": set(),
    "compiler.diagnostics": set(),
    "compiler.atomic": set(),
    "compiler.arguments": set(),
    "compiler.units": set(),
    "compiler.library": {"compiler.diagnostics"},
    "compiler.language": {"compiler.diagnostics", "compiler.units", "grammar"},
    "compiler.problem": {"compiler.diagnostics", "compiler.units"},
    "compiler.evaluation": {
        "compiler.diagnostics",
        "compiler.units",
        "compiler.language",
        "compiler.problem",
    },
    "compiler.bounds": {"compiler.diagnostics", "compiler.problem"},
    "compiler.order": {
        "compiler.diagnostics",
        "compiler.atomic",
        "compiler.problem",
        "compiler.bounds",
    },
    "compiler.program": {"compiler.diagnostics", "compiler.problem", "compiler.order"},
    "compiler.proof": {"compiler.diagnostics", "compiler.problem", "compiler.program"},
    "compiler.plan": {
        "compiler.diagnostics",
        "compiler.units",
        "compiler.atomic",
        "compiler.problem",
        "compiler.bounds",
        "compiler.program",
    },
    "compiler.certificate": {"compiler.problem", "compiler.bounds", "compiler.program"},
    "compiler.analysis": {
        "compiler.problem",
        "compiler.bounds",
        "compiler.order",
        "compiler.program",
    },
    "compiler.show": {
        "compiler.diagnostics",
        "compiler.units",
        "compiler.problem",
        "compiler.bounds",
        "compiler.order",
        "compiler.program",
        "compiler.plan",
        "compiler.analysis",
    },
    "compiler.imports": {
        "compiler.diagnostics",
        "compiler.units",
        "compiler.library",
        "compiler.language",
        "compiler.problem",
        "compiler.evaluation",
        "compiler.program",
    },
    "compiler.driver": {
        "compiler.diagnostics",
        "compiler.library",
        "compiler.language",
        "compiler.problem",
        "compiler.evaluation",
        "compiler.bounds",
        "compiler.order",
        "compiler.program",
        "compiler.proof",
        "compiler.plan",
    },
    "compiler.verify": {
        "compiler.diagnostics",
        "compiler.language",
        "compiler.problem",
        "compiler.evaluation",
        "compiler.bounds",
        "compiler.order",
        "compiler.program",
        "compiler.proof",
        "compiler.plan",
    },
    "compiler.commands": {
        "compiler.diagnostics",
        "compiler.atomic",
        "compiler.arguments",
        "compiler.units",
        "compiler.library",
        "compiler.language",
        "compiler.problem",
        "compiler.evaluation",
        "compiler.order",
        "compiler.program",
        "compiler.proof",
        "compiler.plan",
        "compiler.certificate",
        "compiler.analysis",
        "compiler.show",
        "compiler.driver",
        "compiler.verify",
        "compiler.imports",
    },
    "compiler.cli": {"compiler.diagnostics", "compiler.commands"},
    "runtime": {
        "compiler.diagnostics",
        "compiler.arguments",
        "compiler.program",
        "compiler.proof",
        "compiler.plan",
    },
}

# The proof and the checker of certificates share no derivation with what they check: of these
# rooms they see the values alone.
VALUES_ONLY = {
    "compiler.proof": {
        "compiler.diagnostics",
        "compiler.problem.spec",
        "compiler.problem.figures",
        "compiler.program.program",
    },
    "compiler.certificate.checker": set(),
}


# What is loaded by name from a room that the table does not give: only when it is asked for, so
# that who reads a plan loads no pictures, and who compiles no torch.
DOORS = {
    "compiler.plan.plan opens compiler.show.summary": "`Plan.summary`, for notebooks and scripts",
    "compiler.plan.plan opens compiler.show.notebook": "what a notebook shows of a Plan",
    "compiler.commands.examination opens runtime.surroundings": "`doctor`, where torch is",
    "compiler.commands.startable opens runtime.rank_program": "`run`, which has looked for torch",
    "compiler.commands.startable opens runtime.errors": "likewise: what a plan is refused with",
}


def room(module: str) -> str:
    """The room of a module."""
    return next((r for r in sorted(ROOMS, reverse=True) if inside(module, r)), module)


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_every_module_stands_in_a_room() -> None:
    assert {room(m) for m in modules()} - ROOMS.keys() == {"compiler"}


def test_a_room_knows_only_rooms_below_it() -> None:
    below: set[str] = set()
    for name, may in ROOMS.items():
        assert may <= below, f"{name} may know a room that stands after it in the table"
        below.add(name)


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_knows_the_rooms_of_the_table(name: str) -> None:
    known = {
        f"{module} imports {other}"
        for module, path in modules().items()
        if room(module) == name
        for other in ours(path)
        if room(other) not in ROOMS[name] | {name, "schedules"}
    }
    assert not known


def test_what_is_loaded_by_name_stays_within_the_table_but_for_doors() -> None:
    found = {
        f"{module} opens {other}"
        for module, path in modules().items()
        for other in loaded(path)
        if room(other) not in ROOMS.get(room(module), set()) | {room(module)}
    }
    assert found == DOORS.keys()


def test_no_module_imports_itself_by_way_of_others() -> None:
    """A package stands for the names of its face: whoever imports it imports what that imports."""
    graph = {m: {o for o in ours(path) if o != m} for m, path in modules().items()}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as circle:
        pytest.fail(" imports ".join(reversed(circle.args[1])))


@pytest.mark.parametrize("package", VALUES_ONLY)
def test_who_checks_shares_nothing_with_what_is_checked(package: str) -> None:
    allowed = VALUES_ONLY[package]
    for module, path in modules().items():
        if inside(module, package):
            others = {o for o in ours(path) if not inside(o, package)}
            wrong = {o for o in others if not any(inside(o, a) for a in allowed)}
            assert not wrong, f"{module} imports {sorted(wrong)}"


@pytest.mark.parametrize("folder", ["compiler", "grammar"])
def test_the_compiler_never_imports_torch(folder: str) -> None:
    for module, path in modules().items():
        if inside(module, folder):
            assert not {n for n in imports(path) if inside(n, "torch")}, module


FACES = sorted(m for m, path in modules().items() if path.name == "__init__.py")


@pytest.mark.parametrize("package", FACES)
def test_a_face_says_what_the_room_is_for(package: str) -> None:
    words = tree(modules()[package]).body[0]
    assert words.__class__.__name__ == "Expr", f"{package} begins without a docstring"


def everything() -> list[ModuleType]:
    """Every module, imported: only then does a submodule hide a function of its name."""
    return [importlib.import_module(f"stretto.{m}") for m in modules() if "__main__" not in m]


@pytest.mark.parametrize("package", FACES)
def test_no_module_hides_a_name_of_a_face(package: str) -> None:
    everything()
    face = importlib.import_module(f"stretto.{package}")
    names = getattr(face, "__all__", [])
    assert not [n for n in names if isinstance(getattr(face, n), ModuleType)]


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("stretto.compiler", ("lark", "networkx", "torch", "msgspec", "rich")),
        ("stretto.compiler.plan", ("lark", "networkx", "torch", "rich")),
        ("stretto.compiler.proof", ("lark", "networkx", "torch", "rich")),
        ("stretto.compiler.cli", ("networkx", "torch", "rich")),
    ],
)
def test_importing_loads_no_more_than_it_needs(module: str, absent: tuple[str, ...]) -> None:
    code = f"import {module}, sys; print([m for m in {absent!r} if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert out.stdout.strip() == "[]"


def test_the_compilers_face_finds_every_name_that_it_offers() -> None:
    import stretto.compiler as face

    assert face.__all__ == sorted(face._HOMES)
    assert all(callable(getattr(face, name)) for name in face.__all__)
