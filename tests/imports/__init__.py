"""Tests of the tables of other systems."""
