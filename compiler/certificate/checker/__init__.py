"""The checker of certificates, in three parts, to be read in this order: `check` compares the
schedule with the instance; `relaxation` (with `durations` and `graph`) says what must come before
what and how early and late operations can be; `bound` (with `rank_as_stage` and `window`) adds up
what the evidence names. Of stages that are cut into parts the same is done by `parts_schedule`,
`parts_graph` and `parts_bound`, of the figures in `parts_instance`. The checker imports
nothing else of this project.
"""
