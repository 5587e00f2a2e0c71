"""Modules of lark that are imported by name."""
