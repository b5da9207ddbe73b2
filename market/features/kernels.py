"""Compiled feature step; see :mod:`market.features.catalog`."""
