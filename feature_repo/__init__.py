"""Feast definitions, read from the feature catalog."""
