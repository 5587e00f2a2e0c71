"""The engines: a file each, with `run(state, share)`, which looks for better sequences and submits
them to the `SearchState`, within a share of what is left to spend. `table` lists them, and the
steps of a search.
"""
