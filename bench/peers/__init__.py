"""Our parser and book against those of hftbacktest and nautilus_trader, each in its own environment.

Code that runs in a peer's environment imports nothing of ours except :mod:`bench.peers.turns`.
"""
