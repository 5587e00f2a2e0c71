"""What a run can be refused for before a process is started: a model that is not there, a plan that
the runtime does not run. In come the words of a command line; raises `Unusable`. Nothing of the
user's is imported here: that takes seconds, and is done by every rank."""

import ast
import sys
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path

from stretto.compiler.commands.files import Unusable, unknown


def check_named(flag: str, name: str) -> None:
    """Raises `Unusable` where `MODULE:NAME` is written in another way, or there is no such module
    or name, as far as can be told without importing it."""
    module, colon, attribute = name.rpartition(":")
    if not colon or not module or not attribute:
        raise Unusable(f"{flag} {name}: write it as MODULE:NAME, as in examples/gpt.py:MODEL")
    if module.endswith(".py"):
        path = Path(module)
        if not path.is_file():
            raise Unusable(f"{flag} {name}: {unknown(module, ships=False)}")
        _check_text(flag, name, path, attribute)
        return
    where: list[str] = [str(Path.cwd()), *sys.path]
    origin: str | None = None
    for depth, part in enumerate(module.split("."), 1):
        found = PathFinder.find_spec(part, where)
        if found is None:
            if depth == 1 and part in sys.builtin_module_names:
                return
            if origin is None and _otherwise(part, depth):
                return
            here = ".".join(module.split(".")[:depth])
            raise Unusable(f"{flag} {name}: there is no module {here}, here or installed")
        origin = found.origin
        where = list(found.submodule_search_locations or ())
        if not where and depth < len(module.split(".")):
            return  # a module that makes its own submodules
    if origin and origin.endswith(".py"):
        _check_text(flag, name, Path(origin), attribute)


def check_plan(path: str, ranks: int) -> None:
    """Raises `Unusable` where the runtime refuses the plan."""
    runtime = import_module("stretto.runtime.rank_program")
    errors = import_module("stretto.runtime.errors")
    try:
        for rank in range(min(ranks, 2)):  # what is refused stands in the header, or on every rank
            runtime.plan_for_rank(path, rank, ranks)
    except errors.PipelineError as error:
        raise Unusable(str(error)) from None


def _otherwise(part: str, depth: int) -> bool:
    """Whether another finder than that of paths knows the module, as editable installs have."""
    if depth > 1:
        return True  # a package without a file of its own may be in several places
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        if finder is not PathFinder and find is not None and find(part, None) is not None:
            return True
    return False


def _check_text(flag: str, name: str, path: Path, attribute: str) -> None:
    """That the file can be read as Python and defines the name. Where a name may be made in another
    way, by `import *` or a call, it is left to the ranks."""
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError as error:
        raise Unusable(f"{flag} {name}: {path}:{error.lineno}: {error.msg}") from None
    except (OSError, ValueError) as error:
        raise Unusable(f"{flag} {name}: {path}: {error}") from None
    first = attribute.split(".")[0]
    for node in ast.walk(tree):
        match node:
            case (
                ast.Name(id=known)
                | ast.FunctionDef(name=known)
                | ast.ClassDef(name=known)
                | ast.alias(asname=known)
                | ast.Constant(value=known)
            ) if known == first:
                return
            case ast.alias(name=known, asname=None) if known in (first, "*"):
                return
            case ast.Name(id="globals" | "vars" | "setattr" | "exec"):
                return
    raise Unusable(f"{flag} {name}: {path} has no {first}")
