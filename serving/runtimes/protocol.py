"""What every runtime of a step model looks like from outside."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Step = Callable[[Floats, Floats], tuple[Floats, Floats]]  # features (B, F), state (B, S) -> probs (B, P), state (B, S)
