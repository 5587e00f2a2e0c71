"""Lower bounds where stages are cut into parts, which run on several streams of a rank.

The theorems on whole stages count a rank as one machine, which it is not here, so none of them is
asked. `graph` has the edges that every order has, or may be given without loss, and the longest
paths; `streams` is one machine per stream (B10), `windows` what memory leaves a stream to do at
both ends of the step (B11), `rank_as_chain` counts all stages of a rank as one (B12); `best` asks
them.
"""
