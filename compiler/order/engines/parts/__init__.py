"""Orders of stages that are cut into parts: every part placed freely on its stream of its rank.

Operations are searched one by one here, not class by class as whole stages are: a part waits for
what it needs and for the part before it on its stream, and for nothing else. `instance` is what is
searched, `starts` writes the orders that people have published, with their pairs interleaved,
`dispatch` schedules lists, `mirror` folds a placement that is its own mirror image, `anneal` moves
parts, `exact` asks CP-SAT, `search` runs them in the order that pays.
"""
