"""Our parser and book beside those of hftbacktest and nautilus_trader, each in an environment of its own.

What runs in a peer's environment imports nothing of ours but :mod:`bench.peers.turns`.
"""
