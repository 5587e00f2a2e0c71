"""What `make test-gpu` finds on the machine it runs on. Where the packages that stretto is made of
are missing, small stand-ins take their place (`bare`), so that an interpreter with torch is enough:
nothing is installed. To be imported before anything of stretto's."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
BARE = Path(__file__).parent / "bare"
FOLDERS = ("compiler", "grammar", "runtime", "schedules")
STOOD_IN = tuple(name for name in ("lark", "msgspec") if find_spec(name) is None)
"""The packages that are missing here."""


def prepare() -> None:
    """Makes the folders of this tree known under their import names, and the stand-ins where they
    are needed."""
    types = ROOT / "build/types/stretto"
    types.mkdir(parents=True, exist_ok=True)
    for name in FOLDERS:
        if not (types / name).exists():
            (types / name).symlink_to(f"../../../{name}")
    for path in (str(ROOT), str(types.parent)):
        if path not in sys.path:
            sys.path.insert(0, path)
    if STOOD_IN and str(BARE) not in sys.path:
        sys.path.append(str(BARE))
    # Products of matrices are then the same bits on whatever stream; read when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def told() -> str:
    """The machine and its software, in a line."""
    import torch

    python = ".".join(map(str, sys.version_info[:3]))
    where = "CPU"
    if torch.cuda.is_available():
        where = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    missing = f"; in place of {' and '.join(STOOD_IN)}: stand-ins" if STOOD_IN else ""
    return f"Python {python}, torch {torch.__version__}, {where}{missing}"
