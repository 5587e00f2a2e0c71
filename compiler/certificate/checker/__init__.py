"""The checker of certificates, in three parts, to be read in this order: `check` compares the
schedule with the instance; `relaxation` (with `durations` and `graph`) says what must come before
what and how early and late operations can be; `bound` (with `rank_as_stage` and `window`) adds up
what the evidence names. It imports nothing else of this project.
"""
