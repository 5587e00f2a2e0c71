"""Spec → Problem: operations and edges, a DAG over integers."""
