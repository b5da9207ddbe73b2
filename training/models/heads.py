"""What every network shares, whatever its family: normalisation in front, heads behind, and how it is kept.

Shapes in names: ``B`` lanes, ``T`` steps, ``F`` inputs, ``H`` width, ``S`` numbers of state, ``P`` outputs (logits,
laid out as :mod:`market.heads` says).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from market.heads import DIRECTIONS, by_horizon, divisors

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """``x = clip((raw - mean) * scale, -clip, clip)`` in float32; ``mean`` and ``scale`` have shape (F,).

    ``scale`` 0 switches an input off: it did not vary where it was measured, so nothing is known about it.
    """

    mean: Floats
    scale: Floats
    clip: float

    @classmethod
    def identity(cls, inputs: int) -> Normalisation:
        """Inputs as they come, clipped at 5."""
        return cls(mean=np.zeros(inputs, np.float32), scale=np.ones(inputs, np.float32), clip=5.0)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network as it is kept and exported: plain tensors, with what turns its logits into probabilities.

    ``tensors``: float32 by exported name, as the family's row in :mod:`serving.families` lists them; each family has
    ``head.w (P, H)`` and ``head.b (P,)`` among them. ``temperature``: ``[direction, bid, ask]`` per horizon in order.
    """

    family: str
    tensors: dict[str, Floats]
    normalisation: Normalisation
    temperature: tuple[float, ...]

    @property
    def inputs(self) -> int:
        return len(self.normalisation.mean)

    @property
    def hidden(self) -> int:
        return int(self.tensors["head.w"].shape[1])

    @property
    def outputs(self) -> int:
        return int(self.tensors["head.w"].shape[0])


def probabilities(logits: Tensor, temperature: tuple[float, ...]) -> Tensor:
    """Probabilities (..., P) of logits (..., P): softmax over the three directions, a sigmoid for each depth loss.

    ``temperature`` has one positive divisor per head: ``[direction, bid, ask]`` per horizon.
    """
    grouped = by_horizon(logits / torch.from_numpy(divisors(temperature)))
    direction = grouped[..., :DIRECTIONS].softmax(-1)
    depth = grouped[..., DIRECTIONS:].sigmoid()
    return torch.cat((direction, depth), -1).flatten(-2)
