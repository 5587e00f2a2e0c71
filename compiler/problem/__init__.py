"""Spec → Problem: the operations of a step and every edge between them, a DAG over integers.

In comes a `Spec` (`spec`), everything that the author decided; out goes a `Problem` (`problem`).
Promised: its edges have no circle; a Spec whose data, rules and written orders make one is refused
with the shortest (`deadlock`). What follows from an operation's kind stands in one table (`kinds`),
which stages give each other data in one value (`topology`). The room's function is
`expand.expand`.
"""
