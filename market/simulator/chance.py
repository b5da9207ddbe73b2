"""Compiled random numbers with their state in an array, so that a world's randomness is part of its state.

SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014). A ``chance`` is a
uint64 array of one word.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from market.compiled import compiled

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)


@compiled
def uniform(chance: NDArray[np.uint64]) -> float:
    """In [0, 1), 53 bits."""
    chance[0] += _GAMMA
    z = chance[0]
    z = (z ^ (z >> _S30)) * _MIX1
    z = (z ^ (z >> _S27)) * _MIX2
    z = z ^ (z >> _S31)
    return float(z >> _S11) * (1.0 / 9007199254740992.0)


@compiled
def exponential(chance: NDArray[np.uint64]) -> float:
    """Mean 1."""
    return float(-np.log(1.0 - uniform(chance)))


@compiled
def normal(chance: NDArray[np.uint64]) -> float:
    """Mean 0, standard deviation 1 (Box and Muller 1958, the cosine half)."""
    radius = np.sqrt(2.0 * exponential(chance))
    return float(radius * np.cos(2.0 * np.pi * uniform(chance)))
