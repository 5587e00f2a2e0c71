"""Other systems' tables: the order of a training step, a row for each rank, as `check --from` and
`import` read it.

In comes a text (`Source`) and the name of the system that wrote it; a reader per system (`READERS`)
makes an `ImportedTable` of it, in which every action knows its row and column. Out goes a `Spec`
with that order as the one that was written (`understood`), and where the table says what is sent
and received too, a `Program` (`communicating`). Promised: a table in which anything is wrong is
refused with all that is wrong, each with its cell; whatever the text, in bounded time and memory.

`readable` turns the Spec into the text of a schedule file, and knows the schedules that ship.
"""
