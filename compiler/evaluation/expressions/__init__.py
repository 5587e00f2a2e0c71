"""Expressions: compiled once, run with the values of the names in scope."""
