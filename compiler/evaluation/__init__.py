"""`Schedule` → `Spec`: what the author wrote, with every expression evaluated.

In: the syntax of a file, and the `Settings` that stand beside it (values for parameters, costs of
another file, limits). Out: a `Spec` in whole ticks and grains, with the orders that were written.
Promised: all mistakes are raised together as one `Rejected`, in the order of the text; whatever a
file says, it is answered within the settings' number of operations; nothing is rounded.
"""

from stretto.compiler.evaluation.evaluate import evaluate
from stretto.compiler.evaluation.settings import Settings

__all__ = ["Settings", "evaluate"]
