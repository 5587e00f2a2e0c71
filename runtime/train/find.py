"""How the `MODULE:NAME` of a command line is found: in comes the text, out comes the object."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from stretto.runtime.errors import PipelineError, spelled


def find(name: str, what: str) -> Any:
    """The object that `MODULE:NAME` means; `what` is the flag that asked for it. MODULE is a dotted
    name, looked for in the current directory too, or the path of a `.py` file. Raises
    `PipelineError` where there is no such object, or importing the module fails."""
    module_name, colon, attribute = name.rpartition(":")
    if not colon or not module_name or not attribute:
        raise PipelineError(
            f"--{what} {name}: write it as MODULE:NAME, as in examples/gpt.py:MODEL"
        )
    found: Any = _module(module_name, name, what)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise PipelineError(f"--{what} {name}: {module_name} has no {attribute}")
        found = getattr(found, part)
    return found


def _module(module_name: str, name: str, what: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        if module_name.endswith(".py"):
            path = Path(module_name)
            if not path.is_file():
                raise PipelineError(f"--{what} {name}: there is no file {module_name}")
            return _from_file(path)
        return importlib.import_module(module_name)
    except PipelineError:
        raise
    except Exception as error:
        raise PipelineError(
            f"--{what} {name}: importing {module_name} fails: {spelled(error)}"
        ) from error


def _from_file(path: Path) -> ModuleType:
    """Imports the file under its stem, once, with its folder on the path for what it imports."""
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path.resolve()):
        return known
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    if str(path.resolve().parent) not in sys.path:
        sys.path.insert(0, str(path.resolve().parent))
    spec.loader.exec_module(module)
    return module
