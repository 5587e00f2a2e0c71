"""The loops of the search, compiled where numba is there."""
