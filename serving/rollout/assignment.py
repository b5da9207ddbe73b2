"""Which arm of an experiment is active in which block of time.

Experiments are *switchback*: both arms would meet the same market with their own orders in it, so time is cut into
blocks and one arm is active at a time. Blocks are assigned in random pairs, one to each arm (a permuted-block design),
so that the arms share every slow change of the market.

A *canary* is a version on its way to champion: it is active in a share of the blocks that grows by steps. Blocks are
drawn in tens, so that a share of 10 % is one block of every ten, and one active at 10 % is also active at 50 %.
"""

from __future__ import annotations

import hashlib

ARMS = 2

TENTHS = 10  # a canary's blocks are drawn out of so many


def block_of(recv_ns: int, block_ns: int) -> int:
    """Number of the block that contains a time. Blocks are counted from the epoch, so a restart does not move them."""
    return recv_ns // block_ns


def assign(seed: int, instrument: str, block: int) -> int:
    """The arm active in a block: blocks ``2k`` and ``2k + 1`` get one arm each, which first is a hash's last bit."""
    pair, second = divmod(block, ARMS)
    digest = hashlib.sha256(f"{seed}/{instrument}/{pair}".encode()).digest()
    return (digest[-1] + second) % ARMS


def canary_acts(seed: int, instrument: str, block: int, share: float) -> bool:
    """Whether a canary with this share is active in a block: of ``10k`` to ``10k + 9`` those a hash ranks first."""
    ten, place = divmod(block, TENTHS)
    hashes = [hashlib.sha256(f"{seed}/{instrument}/canary/{ten}/{i}".encode()).digest() for i in range(TENTHS)]
    return sorted(hashes).index(hashes[place]) < round(share * TENTHS)
