"""Fixtures of the whole ring are defined once in ring, beside the other shared parts of the tests."""

from ring import simulated, spare_home

__all__ = ["simulated", "spare_home"]
