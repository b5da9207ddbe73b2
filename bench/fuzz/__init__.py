"""Damaged frames and files for every parser there is, and what must hold of the answer."""
