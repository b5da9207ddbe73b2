"""Datasets, splits without leakage, sequences."""
