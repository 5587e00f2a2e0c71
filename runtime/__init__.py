"""The executor: runs the instruction list of a rank. Imports torch."""
