"""Where a plan's time goes, and what would shorten it.

In comes a Program, out goes an `Explanation`: the critical path, and for every rank the causes of
its idle time, which add up to it. `what_if` solves again with a demand eased, from the same order,
so that no gain is guessed. Times are ticks; nothing is printed here.
"""

from stretto.compiler.analysis.explanation import Explanation, explain

__all__ = ["Explanation", "explain"]
