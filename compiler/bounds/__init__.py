"""Problem → Bound: lower bounds that are proofs, and limits that no order can meet.

In comes a Problem; out go `bound`, the ticks that no order of it can go below with the reason in
words, and `feasible.feasible`, which refuses memory limits that no order can meet. Both are
promised for every order of the same operations, whoever finds it.

`relaxation` turns the Spec into the value that all theorems read, a Relaxation whose best order is
no worse than any order of the Spec. `theorems` is the table of them: a module for each, with its
statement, proof and source in the docstring; `best` asks them all and keeps the largest answer.
The statements and figures were compared with exhaustive searches. B3 is stated here for any two
stages (and slices) of one rank at once, B4 counts how many units the windows leave room for, and B8
is new.
"""

from stretto.compiler.bounds.bound import Bound, bound

__all__ = ["Bound", "bound"]
