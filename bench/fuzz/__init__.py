"""Damaged frames and files for every parser, and the invariants of the result."""
