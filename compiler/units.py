"""The units in which sizes are written and told."""

UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
"""How many bytes each is, from the smallest."""
