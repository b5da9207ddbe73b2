"""Triton: model repository, client, server process."""
