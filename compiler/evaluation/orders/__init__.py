"""Order blocks: compiled once (`blocks`), run for every rank (`run`), every reference resolved to
one operation (`resolve`).

In: the block of `order rank`. Out: for every rank its units, and whether they are all of its
operations. Promised: no operation twice; an order that leaves one out is reported, unless `order
auto` completes it.
"""
