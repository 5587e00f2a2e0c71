"""Checks certificates. Imports nothing of ours."""
