"""Costs: from the statements of a file (`statements`, `memory`) to a table of exact numbers
(`table`) and from there to whole ticks and grains (`ticks`).

In: deferred statements and resolved pipelines. Out: `TickCosts` and the stages of the Spec.
Promised: every number is at most 2^53, and nothing is rounded that has a common denominator so
small; what has none is rounded to 2^-40 of the largest number, once, and the Spec says so.
"""
