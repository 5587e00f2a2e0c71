"""The runtime on one GPU, in one command that needs nothing but torch:

    make test-gpu                  # PYTHON=python3: the interpreter that has torch
    DEVICE=cpu make test-gpu       # the same code where there is no GPU
    python3 -m tests.gpu           # what it runs, from the folder of the repository

Prints a table for each section. The exit code is 0 where all is as it should be, 1 where something
is not, 2 where there is no GPU (or no torch).
"""

import argparse
import os
import sys
import time
import traceback

from tests.gpu import environment

SECTIONS = ("parity", "overhead", "overlap", "memory", "graphs")


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="make test-gpu", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--device", default=os.environ.get("DEVICE") or "cuda")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="this section alone")
    parser.add_argument("--schedules", default="", help="those of the parity alone: NAME,NAME")
    chosen = parser.parse_args(arguments)
    try:
        import torch
    except ImportError as error:
        print(f"error: this interpreter has no torch ({error}): name one that has, PYTHON=…")
        return 2
    environment.prepare()
    device = torch.device(chosen.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("error: there is no GPU that torch can use (DEVICE=cpu runs the same on the CPU)")
        return 2
    torch.set_num_threads(1)
    print(f"{environment.told()}\n")
    good, begun = True, time.monotonic()
    for name in chosen.only or SECTIONS:
        names = chosen.schedules.split(",") if chosen.schedules and name == "parity" else []
        try:
            shown, fine = section(name, device, *names)
        except Exception:  # the other sections tell something all the same
            print(f"WRONG: {name} fails\n{traceback.format_exc()}", flush=True)
            good = False
            continue
        print(shown, flush=True)
        good &= fine
    judged = "all is as it should be" if good else "WRONG: see above"
    print(f"{time.monotonic() - begun:.0f} s; {judged}")
    return 0 if good else 1


def section(name: str, device: object, *names: str) -> tuple[str, bool]:
    """What a section prints, and whether it found nothing wrong; `names`: of schedules."""
    from importlib import import_module

    found: tuple[str, bool] = import_module(f"tests.gpu.{name}").run(device, *names)
    return found


if __name__ == "__main__":
    sys.exit(main())
