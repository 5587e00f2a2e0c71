"""Costs: from the statements of a file (`statements`, `memory`) to a table of exact numbers
(`table`) and from there to whole ticks and grains (`ticks`).

In: deferred statements and resolved pipelines. Out: `TickCosts` and the stages of the Spec.
Promised: nothing is rounded, and every number is at most 2^53.
"""
