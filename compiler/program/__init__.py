"""Order → Program: for every rank the list of instructions that it runs.

In comes an `Order`; out go the Programs of a plan: `communicate.communicate` makes that of the
step, `communicate.forwards` that of an evaluation. Promised: a Program can finish, even where a
send waits for its receive. `timeline.time` is the one clock, `claims.claims` what a plan says of a
Program; the proof computes both anew.
"""
