"""What `make test-gpu` finds on the machine it runs on. Where the packages that stretto is made of
are missing, small stand-ins take their place (`bare`), so that an interpreter with torch is enough:
nothing is installed. To be imported before anything of stretto's."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

BARE = Path(__file__).parent / "bare"
STOOD_IN = tuple(name for name in ("lark", "msgspec") if find_spec(name) is None)
"""The packages that are missing here."""

if STOOD_IN and str(BARE) not in sys.path:
    sys.path.append(str(BARE))
# Products of matrices are then the same bits on whatever stream they run; read when CUDA starts.
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
