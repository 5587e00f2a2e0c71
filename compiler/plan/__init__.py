"""The plan as a value and as a file."""
