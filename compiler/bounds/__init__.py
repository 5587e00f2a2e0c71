"""Lower bounds that are proofs: a module for each theorem, its statement and proof in the
docstring. `relax` turns the Spec into the value they all read, a `Model` that no order of the
Spec can beat; `compiler/bound.py` asks them all and keeps the largest.

| module | theorem |
| --- | --- |
| `fifo` | B0, B2: alike micro-batches may run first in, first out |
| `busy` | B1: what a rank does between a head and a tail (Jackson's preemptive schedule) |
| `memory` | B3: the limit lets a forward start only when an earlier micro-batch has left |
| `window` | B4: before its first backward and after its last forward a rank can do little |
| `little` | B5: memory × time |
| `pairs` | B6: what overlapping can save |
| `span` | B7: the same between the first and the last operation of one rank |
| `merged` | B8: a rank with several stages of equal durations, as if it had one |

Statements and figures are from the project's facts on ordering; B3 is stated here for any two
stages (and slices) of one rank at once, B4 counts how many pairs the windows leave room for, and B8
is new.
"""
