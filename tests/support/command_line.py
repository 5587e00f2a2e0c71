"""The command line as a test calls it, and the files that it is given."""

import sys
from collections.abc import Callable

STRETTO = [sys.executable, "-m", "stretto.compiler.cli"]

GOOD = """\
schedule good
ranks 2
microbatches 2
param memory = 2
pipeline main {}
limit activations <= memory
order rank r { repeat microbatches { F }  repeat microbatches { B } }
"""
WRONG = GOOD.replace("repeat microbatches { F }", "repeat microbatchs { F }")

Run = Callable[..., tuple[int, str, str]]  # words to exit code, stdout, stderr
